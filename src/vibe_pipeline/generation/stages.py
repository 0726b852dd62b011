"""How one pass over a clip is denoised, and passes before a row's own."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from vibe_pipeline.diffusion.attention import install_gclf
from vibe_pipeline.diffusion.flow import Interval
from vibe_pipeline.diffusion.rope import install_rope, rope_of
from vibe_pipeline.diffusion.sampling import Scheduler
from vibe_pipeline.experiment.arms import ArmParams, StageParams
from vibe_pipeline.generation.clip_cache import Scale

if TYPE_CHECKING:
    from vibe_pipeline.generation.denoiser import Denoiser
    from vibe_pipeline.generation.experts import Expert


@dataclass(frozen=True)
class Sampling:
    """How a clip is denoised: noise levels [n + 1], solver, guidance scale, and between which levels it is applied.

    `guidance_scale_2` is the low-noise expert's of two; None: the same.
    """

    sigmas: Tensor
    scheduler: Scheduler
    guidance_scale: float
    guidance_interval: Interval | None = None
    guidance_scale_2: float | None = None

    @property
    def low_noise_scale(self) -> float:
        """The guidance scale of the second of two experts."""
        return self.guidance_scale if self.guidance_scale_2 is None else self.guidance_scale_2


Attach = Callable[["Expert", ArmParams, tuple[int, int]], None]


def attach_attention(expert: "Expert", arm: ArmParams | StageParams, native_grid: tuple[int, int]) -> None:
    """A row's or a stage's attention and rotary positions, windows measured on the native token grid (H, W)."""
    rope, narrow = rope_of(arm.rope), isinstance(arm, ArmParams) and arm.unconditional_attention is not None
    install_rope(expert.transformer, rope, native_grid)
    installed = install_gclf(expert.transformer, arm.attention, native_grid, rope=rope, always=narrow)
    if narrow and installed is not None:
        installed.narrow("unconditional")


@dataclass(frozen=True)
class Stage:
    """A pass before a row's own.

    Attributes:
        size: Of its clips.
        sampling: Noise levels, solver, guidance.
        attach: Gives a transformer the stage's attention and positions; undone by that of the row.
        restore: Gives it the row's again.
    """

    size: Scale
    sampling: Sampling
    attach: Callable[["Expert"], None]
    restore: Callable[["Expert"], None]

    @contextmanager
    def entered(self, denoiser: "Denoiser") -> Iterator[None]:
        """The stage's attention inside, the row's afterwards."""
        for expert in denoiser.experts:
            self.attach(expert)
        try:
            yield
        finally:
            for expert in denoiser.experts:
                self.restore(expert)
