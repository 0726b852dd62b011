"""`cascade`: from noise at a smaller size, then the latent enlarged and denoised again, without decoding in between.

CineScale's first release (arXiv 2508.15774, Eyeline-Labs/CineScale, Apache-2.0) reaches 3K and 4K so: its LoRA at
1088x1920 from noise, then the latent trilinearly at the target, from step 15 of a 50-step schedule of its own shift.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vibe_pipeline.diffusion.flow import schedule_steps
from vibe_pipeline.diffusion.step_cache import step_cache_of
from vibe_pipeline.experiment.arms import ArmParams, StageParams
from vibe_pipeline.generation.clip_cache import Make, Scale
from vibe_pipeline.generation.methods.base import ArmJob, Workload
from vibe_pipeline.generation.methods.denoising import DenoisingMethod
from vibe_pipeline.generation.methods.forwards import forwards_of, own_forwards, require_whole_steps

if TYPE_CHECKING:
    from vibe_pipeline.generation.experts import Expert
    from vibe_pipeline.generation.stages import Stage


class Cascade(DenoisingMethod):
    """Passes of growing size, all by the row's weights; `stages` are those before the row's own."""

    name = "cascade"
    own_fields = frozenset({"stages"})

    def check(self, arm: ArmParams) -> None:
        """There are stages, the first from noise, each larger than the one before."""
        super().check(arm)
        if arm.stages is None:
            raise ValueError("method cascade needs `stages`, the passes before the row's own: height, width, steps")
        if (cache := step_cache_of(arm.step_cache)) is not None and cache.one_pass:
            raise ValueError(f"step_cache {cache.name!r} is of one resolution, and a cascade has several: use another")
        if arm.stages[0].strength != 1:
            raise ValueError(
                f"stages.0.strength is {arm.stages[0].strength:g}, but the first stage starts from noise: 1"
            )
        for index, (before, after) in enumerate(zip(arm.stages, arm.stages[1:], strict=False), start=1):
            if after.height < before.height or after.width < before.width:
                raise ValueError(
                    f"stages.{index} is {after.height}x{after.width}, smaller than the {before.height}x{before.width} "
                    "before it: a cascade only ever enlarges"
                )

        for index, stage in enumerate(arm.stages):
            try:
                require_whole_steps(arm, stage.attention, _steps(stage))
            except ValueError as error:
                raise ValueError(f"stages.{index}: {error}") from None

    def strength(self, arm: ArmParams) -> float:
        """Of the row's own pass, which starts from the enlarged latent."""
        return arm.strength

    def said(self, arm: ArmParams) -> dict[str, bool]:
        """The stages before."""
        return {f"from noise at {_sizes(arm)}, latent enlarged": True}

    @contextmanager
    def prepare(self, job: ArmJob) -> Iterator[Make]:
        """The arm's models, from noise at the first stage's size."""
        stages = [self._stage(job, stage) for stage in job.arm.stages or ()]
        with self.denoiser(job) as denoiser:
            yield lambda rows: denoiser.cascade(rows, job.size, stages)

    def _stage(self, job: ArmJob, stage: StageParams) -> "Stage":
        from vibe_pipeline.diffusion.checkpoint import find_model, token_grid
        from vibe_pipeline.generation.clip_settings import stage_sampling
        from vibe_pipeline.generation.stages import Stage, attach_attention

        native = token_grid(find_model(job.model.path), job.model.native.height, job.model.native.width)

        def attach(params: ArmParams | StageParams, expert: "Expert") -> None:
            attach_attention(expert, params, native)

        return Stage(
            size=Scale(stage.height, stage.width, job.size.frames, job.size.fps),
            sampling=stage_sampling(stage, job.arm, job.model),
            attach=lambda expert: attach(stage, expert),
            restore=lambda expert: attach(job.arm, expert),
        )

    def workload(self, arm: ArmParams, steps: int, guided: int | None = None) -> Workload:
        """The stages' passes at their sizes, the row's at the target; one decode."""
        earlier = [
            (stage.height, stage.width, attention, times)
            for stage in arm.stages or ()
            for attention, times in forwards_of(arm, stage.attention, _steps(stage))
        ]
        return Workload(decodes=1, forwards=own_forwards(arm, steps, guided), earlier=tuple(earlier))


def _steps(stage: StageParams) -> int:
    return schedule_steps(stage.steps, stage.strength, stage.strength_mode)


def _sizes(arm: ArmParams) -> str:
    return ", ".join(f"{stage.height}x{stage.width}" for stage in arm.stages or ())
