"""One adapter's training: what is to be done, what changes meanwhile, and the batch of one step."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel
from diffusers.training_utils import EMAModel
from torch import Tensor

from vibe_pipeline.diffusion.bridge import draw_start_sigma
from vibe_pipeline.diffusion.crops import TokenCrop, cropped_loss
from vibe_pipeline.diffusion.flow import draw_sigma
from vibe_pipeline.diffusion.objectives import Predict, Sample, degrades, mixed_loss
from vibe_pipeline.experiment.adapters import DegradationParams
from vibe_pipeline.experiment.bridge import BridgeParams
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.experiment.training import TrainParams
from vibe_pipeline.images.cache import LatentCache
from vibe_pipeline.images.degradation import degraded_latent
from vibe_pipeline.training.distributed import Group, OnLog
from vibe_pipeline.training.throughput import Window

OnValidate = Callable[[WanTransformer3DModel, int], None]
"""(transformer in evaluation mode, steps done); must leave the transformer as it found it."""


@dataclass(frozen=True)
class StageLoss:
    """The loss of a stage, on one of the cached latents.

    Attributes:
        part: Which latents are learned: `low` or `high`.
        objective: Weights of `diffusion.objectives.OBJECTIVES`.
        degradation: How the degraded latent is made, where an objective reads it.
        bridge: Where the way starts, of objectives that learn one.
        crop: What of an image is learned; None: all of it.
    """

    part: str
    objective: Mapping[str, float]
    degradation: DegradationParams = field(default_factory=DegradationParams)
    bridge: BridgeParams | None = None
    crop: TokenCrop | None = None

    @property
    def parts(self) -> tuple[str, ...]:
        """Cached latents that are needed; `part` is the first."""
        return (self.part,) if self._made is None else (self.part, self._made)

    @property
    def _made(self) -> str | None:
        """The cached latents that stand for the degraded one; None: it is made here, or not at all."""
        if not degrades(self.objective) or self._noise_alone:
            return None
        return {"pixel": "pixel", "pixel_drawn": "drawn"}.get(self.degradation.kind)

    @property
    def _noise_alone(self) -> bool:
        """Noise at the start of a bridge is all that is undone."""
        return self.bridge is not None and self.bridge.degradation == "latent"

    def draws(
        self, count: int, generator: torch.Generator, cached: int = 0, shape: tuple[int, ...] = ()
    ) -> dict[str, Tensor]:
        """What else a step draws for `count` images, each of latents of `shape` and `cached` draws: by name.

        `draw`: which of its cached degraded latents. `sigma_start`: where its way starts. `degraded`: whether it is.
        `offset` and `context_noise`: see `TokenCrop.draws`. `degradation_noise`: what kind noise adds, drawn last.
        """
        found: dict[str, Tensor] = {}
        if self._made == "drawn":
            found["draw"] = torch.randint(cached, (count,), generator=generator)
        if self.bridge is not None:
            fixed = self.bridge.sigma_start if self.bridge.degradation != "pixel" else 0.0
            steps = self.bridge.ddpm_steps
            drawn = torch.full((count,), fixed) if fixed is not None else draw_start_sigma(steps, count, generator)
            found["sigma_start"] = drawn
        if degrades(self.objective) and self.degradation.probability < 1:
            found["degraded"] = torch.rand(count, generator=generator) < self.degradation.probability
        if self.crop is not None:
            found |= self.crop.draws(count, shape, generator)
        if degrades(self.objective) and not self._noise_alone and self.degradation.kind == "noise":
            found["degradation_noise"] = torch.randn((count, *shape), generator=generator)
        return found

    def __call__(
        self, predict: Predict, batch: dict[str, Tensor], noise: Tensor, sigma: Tensor, weight: Tensor
    ) -> dict[str, Tensor]:
        """Named losses, `loss` among them; means over the batch of cached parts and of what was drawn."""
        sample = Sample(
            x0=batch[self.part],
            noise=noise,
            sigma=sigma,
            weight=weight,
            degraded=self._degraded(batch),
            sigma_start=batch.get("sigma_start"),
        )
        if self.crop is not None:
            return cropped_loss(self.objective, predict, sample, self.crop, batch)
        return mixed_loss(self.objective, predict, sample)

    def _degraded(self, batch: dict[str, Tensor]) -> Tensor | None:
        if not degrades(self.objective):
            return None
        clean = batch[self.part]
        if self._noise_alone:
            return clean
        made = batch[self._made] if self._made else None
        if made is None:
            made = degraded_latent(clean, self.degradation, batch.get("degradation_noise"))
        chosen = batch.get("degraded")
        return made if chosen is None else made.where(chosen.view(-1, *[1] * (clean.ndim - 1)), clean)


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """What is to be trained: paths and parameters alone, so that it can be sent to other processes.

    Attributes:
        name: The row's, and the adapter's on the transformer.
        key: Hash of what determines the adapter.
        folder: Gets checkpoints, the adapter and its manifest.
        model: The base.
        expand_timesteps: Whether the base takes a timestep for every token.
        row: How to train.
        images: Cached latents to train on.
        held_out: Those of the held-out loss, every `validate_every` steps and at the end.
        loss: Which of the latents, and how they are learned.
        fused: A stage-1 adapter to merge into the base first.
        boundary: Of a base of two experts, the level below which the one in training works; see `below`.
        on_validate: Called on process 0 every `validate_every` steps, with the averaged adapter where there is one;
            must be picklable where there are several processes.
    """

    name: str
    key: str
    folder: Path
    model: ModelParams
    expand_timesteps: bool
    row: TrainParams
    images: LatentCache
    held_out: LatentCache | None
    loss: StageLoss
    fused: Path | None = None
    boundary: float | None = None
    on_validate: OnValidate | None = None

    @property
    def dtype(self) -> torch.dtype:
        """What the transformer computes in, where nothing is autocast."""
        return getattr(torch, self.model.dtype)

    @property
    def below(self) -> float | None:
        """The level that training levels are drawn below; None: all are.

        Of two experts the one of low noise is trained, and never sees higher levels. What is drawn for a bridge is the
        share of its way, all of which is learned.
        """
        return None if self.loss.bridge is not None else self.boundary

    def draw_levels(self, count: int, generator: torch.Generator) -> Tensor:
        """Noise levels [count] as the row draws them, where the transformer in training works."""
        row = self.row
        return draw_sigma(
            kind=row.sigma_sampling,
            count=count,
            shift=row.sigma_shift,
            generator=generator,
            mean=row.logit_mean,
            std=row.logit_std,
            below=self.below,
        )

    def chunk(self, processes: int) -> int:
        """Images per forward of one process."""
        return self.row.micro_batch or -(-self.row.batch_size // processes)


@dataclass(kw_only=True)
class TrainingState:
    """A training under way in this process: all that changes, and where it is computed.

    Attributes:
        transformer: With the adapter `job.name` on it.
        group: The processes that train together.
        on_log: Gets new log lines; of process 0 only.
        parameters: The adapter's.
        peak: TFLOP/s of all devices together, where known.
        step: The next one, counted from 0.
        records: The log.
        window: What came since its last line.
        flops: Of one image, forward and backward, by token grid and text length.
    """

    job: TrainingJob
    transformer: WanTransformer3DModel
    group: Group
    on_log: OnLog
    parameters: list[torch.nn.Parameter]
    optimiser: torch.optim.Optimizer
    ema: EMAModel | None
    peak: float | None
    step: int = 0
    records: list[dict[str, float]] = field(default_factory=list)
    window: Window = field(default_factory=Window)
    flops: dict[tuple[int, ...], float] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """This process's share of one step, on the CPU.

    Attributes:
        indices: Of the images of the whole batch, over all processes.
        parts: Cached latents by name, `text`, and what else was drawn for each image.
        noise: Like the latents.
        sigma: One an image.
    """

    indices: list[int]
    parts: dict[str, Tensor]
    noise: Tensor
    sigma: Tensor

    @property
    def shapes(self) -> Counter[tuple[int, ...]]:
        """How many images of the whole batch have latents of which shape."""
        return Counter({tuple(self.noise.shape[1:]): len(self.indices)})

    @property
    def text_length(self) -> int:
        """Tokens of a caption."""
        return self.parts["text"].shape[1]


def draw_batch(job: TrainingJob, group: Group, step: int, indices: list[int]) -> Batch:
    """All that is random is drawn for the whole batch from (seed, step), then cut: shares do not change it."""
    generator = torch.Generator().manual_seed(job.row.seed * 1_000_003 + step)
    shape = job.images.shape(job.loss.part, indices[0])
    noise = torch.randn((len(indices), *shape), generator=generator)
    sigma = job.draw_levels(len(indices), generator)
    drawn = job.loss.draws(len(indices), generator, job.images.draws, shape)
    first, end = group.bounds(len(indices))
    parts = read_parts(job.images, job.loss, indices[first:end], {n: v[first:end] for n, v in drawn.items()})
    parts["text"] = job.images.batch("text", indices[first:end])
    return Batch(indices, parts, noise[first:end], sigma[first:end])


def read_parts(
    images: LatentCache, loss: StageLoss, indices: list[int], drawn: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The cached latents that a loss needs of some images, with what was drawn for them."""
    parts = {name: images.batch(name, indices, drawn.get("draw")) for name in loss.parts}
    return parts | {name: value for name, value in drawn.items() if name != "draw"}
