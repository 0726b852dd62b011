"""What a method is: one way of making an arm's clips. Each is one entry in one file of this folder.

The entries are read by plan, doctor and checks of parameters too, so what makes clips (torch, diffusers) is imported
where clips are made.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pandas as pd

from vibe_pipeline.diffusion.flow import Levels, evaluated, guides, noise_levels
from vibe_pipeline.diffusion.step_cache import step_cache_of
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.experiment.super_resolution import SuperResolutionParams
from vibe_pipeline.generation.clip_cache import ClipJob, Make, Scale, make_clips
from vibe_pipeline.generation.methods.forwards import Counted
from vibe_pipeline.io.files import link_by_name
from vibe_pipeline.io.keys import content_key
from vibe_pipeline.io.manifests import AdapterManifest, FilterManifest

if TYPE_CHECKING:
    pass

Bound = Literal["floor", "ceiling"]


@dataclass(frozen=True)
class ArmJob:
    """What an arm's clips are made from.

    Attributes:
        name: The row's name.
        arm: The row.
        native: One row a native clip: prompt_index, prompt, seed, path, key.
        model: The base model, and the target size.
        generation: The negative prompt, the batch size.
        root: Folder of all clips and of the prompts' embeddings.
        adapter: Manifest of the arm's adapter, if it has one.
        stage1: Manifest of the stage-1 adapter to keep at inference (an ablation), if any.
        linear_filter: The filter of stage 2's stills, for a method that `uses_stills`.
    """

    name: str
    arm: ArmParams
    native: pd.DataFrame
    model: ModelParams
    generation: GenerationParams
    root: Path
    adapter: AdapterManifest | None = None
    stage1: AdapterManifest | None = None
    linear_filter: FilterManifest | None = None

    @property
    def size(self) -> Scale:
        """The size of the clips to be made."""
        return Scale.of(self.model.target)


@dataclass(frozen=True)
class Workload:
    """What making one clip takes, for the plan.

    Attributes:
        encodes: Clips of the target size through the VAE's encoder.
        decodes: Clips of the target size through its decoder.
        forwards: Passes of the transformer at the target size, with the attention of each.
        copies: Of the latent, side by side in one forward.
        keeps_cross_attention: Cross-attention outputs of all blocks stay in memory between steps.
        native_encodes: Clips of the native size through the encoder.
        earlier: Passes at other sizes before: height and width in pixels, attention, how many.
        network: A single-image network that every frame of the native clip goes through.
        filtered: Every frame goes through a linear filter, on a processor.
    """

    encodes: int = 0
    decodes: int = 0
    native_encodes: int = 0
    earlier: tuple[tuple[int, int, Counted, int], ...] = ()
    forwards: tuple[tuple[Counted, int], ...] = ()
    copies: int = 1
    keeps_cross_attention: bool = False
    network: SuperResolutionParams | None = None
    filtered: bool = False


class Method:
    """One way of making an arm's clips; subclasses fill in what differs.

    Attributes:
        name: As `arms.*.method` says it.
        runs_transformer: The base, with adapters and attention of the row, makes the clips.
        second_pass: They start from the noised native clip, so that `strength` counts.
        uses_device: Worth a GPU.
        bound: The clips bound what a model can do, from below (`floor`) or above (`ceiling`); None: a contestant.
        from_native: They show the native clip's scene, and can be held against it.
        uses_stills: They are made with the linear filter that is fitted on stage 2's stills; the graph then has it.
        takes_clips: They are made of the native clip, so that any clip of one's own can stand in its place.
        own_fields: Fields of the row that only this method reads.
    """

    name: ClassVar[str]
    runs_transformer: ClassVar[bool] = False
    second_pass: ClassVar[bool] = False
    uses_device: ClassVar[bool] = True
    bound: ClassVar[Bound | None] = None
    from_native: ClassVar[bool] = True
    uses_stills: ClassVar[bool] = False
    takes_clips: ClassVar[bool] = False
    own_fields: ClassVar[frozenset[str]] = frozenset()

    def check(self, arm: ArmParams) -> None:
        """Refuse a row that contradicts the method.

        Raises:
            ValueError: Names the field and its value.
        """

    def describe(self, arm: ArmParams) -> str:
        """One line for the report on what an arm of this method runs."""
        raise NotImplementedError

    def strength(self, arm: ArmParams) -> float:
        """The strength that counts: only a second pass starts from a clip."""
        return arm.strength if self.second_pass else 1.0

    def settings(self, job: ArmJob) -> dict[str, Any]:
        """What else determines the clips, beside the row, the base and the adapters; hashed into their keys."""
        return {}

    def levels(self, arm: ArmParams, shift: float) -> Levels:
        """Noise levels of the row's own pass for the plan, all but the 0 at its end; `shift` is the model's."""
        return noise_levels(arm.steps, arm.flow_shift or shift, self.strength(arm), arm.strength_mode)

    def guided(self, arm: ArmParams, levels: Levels) -> int:
        """Evaluations of a pass at these levels that are guided."""
        asked = evaluated(levels, midpoint=arm.scheduler == "midpoint")
        return sum(guides(sigma, arm.guidance_scale, arm.guidance_interval) for sigma in asked)

    def partial(self, arm: ArmParams, levels: Levels) -> int:
        """Forwards of a pass at these levels that run the active tokens of `region_adaptive` alone."""
        if arm.region_adaptive is None:
            return 0
        schedule = arm.region_adaptive.schedule
        free = [guides(sigma, arm.guidance_scale, arm.guidance_interval) for sigma in levels]
        return schedule.partial_forwards([True] * len(levels)) + schedule.partial_forwards(free)

    def reused(self, arm: ArmParams, levels: Levels) -> tuple[tuple[int, int], tuple[int, int]]:
        """Forwards at these levels in which a step cache stands in for self- and for cross-attention.

        Returns:
            Both numbers of the pass with the prompt, and of the one without.
        """
        cache = step_cache_of(arm.step_cache)
        if cache is None:
            return (0, 0), (0, 0)
        free = tuple(sigma for sigma in levels if guides(sigma, arm.guidance_scale, arm.guidance_interval))
        return cache.reused(levels), cache.reused(free)

    def prepare(self, job: ArmJob) -> AbstractContextManager[Make]:
        """Load what is needed and give the function from rows of prompts to their clips; see `clip_cache.Make`.

        Leaving the context frees the memory again.
        """
        raise NotImplementedError

    def workload(self, arm: ArmParams, steps: int, guided: int | None = None) -> Workload:
        """What one clip takes, at `steps` steps of the sampler, `guided` evaluations with both passes (None: all)."""
        return Workload()

    def clips(self, job: ArmJob) -> pd.DataFrame:
        """Every clip of an arm; those that are there already are not made again.

        Returns:
            One row a clip: arm, prompt_index, prompt, seed, path, preview_path, height, width, frames, fps, seconds,
            key, method, sigma_start, native_source, differs (of another system's clips: how from the target).
        """
        from vibe_pipeline.generation.clip_settings import arm_sampling, arm_settings, notes

        rows = job.native.rename(columns={"path": "native_path", "key": "native_key"})
        sampling = arm_sampling(job.arm, job.model, self.strength(job.arm))
        settings = arm_settings(job.arm, job.model, job.generation, job.adapter, job.stage1)
        settings |= self.settings(job)
        folder = job.root / "arms" / content_key(settings)
        clip_job = ClipJob(
            name=job.name,
            settings=settings,
            folder=folder,
            size=job.size,
            prepare=lambda: self.prepare(job),
            batch_size=job.generation.batch_size,
            notes=notes(job.model, sampling),
        )
        made = make_clips(rows, clip_job)
        link_by_name(job.root / "by_name" / job.name, folder)
        made.insert(0, "arm", job.name)
        stated = {"method": self.name, "native_source": job.generation.native_source, "differs": ""}
        return made.assign(sigma_start=float(sampling.sigmas[0]), **stated, **vars(job.size))
