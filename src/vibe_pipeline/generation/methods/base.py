"""What a method is: one way of making an arm's clips. Each is one entry in one file of this folder.

The entries are read by plan, doctor and checks of parameters too, so what makes clips (torch, diffusers) is imported
where clips are made.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pandas as pd

from vibe_pipeline.diffusion.attention import attention_words, kind_of, require_windowed
from vibe_pipeline.diffusion.flow import Levels, evaluated, guides, noise_levels
from vibe_pipeline.diffusion.regions import require_selective
from vibe_pipeline.diffusion.rope import rope_of
from vibe_pipeline.diffusion.step_cache import step_cache_of
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.experiment.super_resolution import SuperResolutionParams
from vibe_pipeline.generation.clip_cache import ClipJob, Make, Scale, make_clips
from vibe_pipeline.generation.methods.forwards import Counted, forwards_of, require_whole_steps
from vibe_pipeline.io.files import link_by_name
from vibe_pipeline.io.keys import content_key
from vibe_pipeline.io.manifests import AdapterManifest, FilterManifest

if TYPE_CHECKING:
    from vibe_pipeline.generation.denoiser import Denoiser
    from vibe_pipeline.generation.experts import Expert

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

    def reused(self, arm: ArmParams, levels: Levels) -> tuple[int, int]:
        """Forwards of a pass at these levels in which a step cache stands in for self- and for cross-attention."""
        cache = step_cache_of(arm.step_cache)
        if cache is None:
            return 0, 0
        free = tuple(sigma for sigma in levels if guides(sigma, arm.guidance_scale, arm.guidance_interval))
        one, other = zip(cache.reused(levels), cache.reused(free), strict=True)
        return sum(one), sum(other)

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


class DenoisingMethod(Method):
    """A method that runs the transformer."""

    runs_transformer = True

    def settings(self, job: ArmJob) -> dict[str, Any]:
        """What a step cache goes by, where it has to be calibrated."""
        from vibe_pipeline.generation.calibration import calibration_settings

        return calibration_settings(job)

    def check(self, arm: ArmParams) -> None:
        """A truncated schedule leaves a step, positions by tiles need windows, and what counts steps is alone."""
        if rope_of(arm.rope).relative:
            require_windowed(kind_of(arm.attention))
        if arm.scheduler == "midpoint" and arm.step_cache is not None:
            raise ValueError("scheduler midpoint evaluates between the steps that step_cache counts: leave one out")
        _check_regions(arm)
        if arm.long is not None and arm.step_cache is not None:
            raise ValueError("long predicts each chunk of a step, and step_cache would mix them: leave one out")
        if arm.long is not None and kind_of(arm.attention).stepwise:
            raise ValueError(
                f"long predicts each chunk of a step, and attention kind {arm.attention.kind} would count them as steps"
                ": leave one out"
            )
        if arm.strength_mode == "truncated" and int(self.strength(arm) * arm.steps) < 1:
            raise ValueError(
                f"strength_mode truncated: strength {arm.strength} of {arm.steps} steps leaves none: raise either"
            )
        require_whole_steps(arm, arm.attention, len(self.levels(arm, 1.0)))

    def describe(self, arm: ArmParams) -> str:
        """Weights of its own, adapter, attention, start, steps, solver, guidance."""
        truncated = arm.strength_mode == "truncated" and self.strength(arm) < 1
        cache = step_cache_of(arm.step_cache)
        parts = {
            f"transformer {arm.transformer.path.stem}" if arm.transformer else "": arm.transformer is not None,
            f"adapter {arm.adapter}" if arm.adapter else "no adapter": True,
            **self.said(arm),
            "stage 1 kept": arm.keep_stage1,
            f"{len(arm.extra_adapters)} extra adapters": bool(arm.extra_adapters),
            f"full path every {arm.refresh_every} steps": arm.refresh_every is not None,
            f"{attention_words(arm.attention)} attention": True,
            " · ".join(rope_of(arm.rope).words()): arm.rope.kind != "none",
            self.start_words(arm): True,
            f"{int(self.strength(arm) * arm.steps)} of {arm.steps} steps" if truncated else f"{arm.steps} steps": True,
            "UniPC": arm.scheduler == "unipc",
            "midpoint": arm.scheduler == "midpoint",
            f"flow shift {arm.flow_shift or 0:g}": arm.flow_shift is not None,
            _guidance(arm): arm.guidance_scale != 1 or arm.guidance_scale_2 is not None,
            cache.words() if cache else "": cache is not None,
            arm.region_adaptive.words() if arm.region_adaptive else "": arm.region_adaptive is not None,
            arm.long.words() if arm.long else "": arm.long is not None,
            f"{arm.detail_transfer or 0:g} of the change added to the enlarged clip": arm.detail_transfer is not None,
        }
        return " · ".join(part for part, applies in parts.items() if applies)

    def start_words(self, arm: ArmParams) -> str:
        """Where the row's own pass starts."""
        if arm.bridge is not None:
            return f"{arm.bridge.form} bridge from sigma {arm.bridge.sigma:.3g}"
        return f"strength {arm.strength:g}" if self.second_pass or arm.stages else "from noise"

    def said(self, arm: ArmParams) -> dict[str, bool]:
        """What else the description says behind the adapter, and whether it applies to the row."""
        return {}

    def denoiser(self, job: ArmJob) -> "Denoiser":
        """The arm's models, loaded; a context manager."""
        from vibe_pipeline.generation.calibration import calibrate
        from vibe_pipeline.generation.clip_settings import arm_sampling
        from vibe_pipeline.generation.denoiser import Denoiser
        from vibe_pipeline.generation.native_latents import NativeLatents
        from vibe_pipeline.generation.text_cache import text_cache

        denoiser = Denoiser(
            model=job.model,
            params=job.generation,
            texts=text_cache(job.model, job.root),
            prompts=set(job.native["prompt"]),
            sampling=arm_sampling(job.arm, job.model, self.strength(job.arm)),
            arm=job.arm,
            adapter=job.adapter,
            stage1=job.stage1,
            attach=partial(self.attach, offload=job.model.offload),
            natives=NativeLatents.of(job.model, job.root),
        )
        try:
            calibrate(denoiser, job, self.second_pass)
        except BaseException:
            denoiser.close()
            raise
        return denoiser

    def attach(self, expert: "Expert", arm: ArmParams, native_grid: tuple[int, int], offload: bool) -> None:
        """Give a transformer the row's attention; `native_grid` is (H, W) in tokens, `offload` the model's."""
        from vibe_pipeline.generation.stages import attach_attention

        attach_attention(expert, arm, native_grid)

    def workload(self, arm: ArmParams, steps: int, guided: int | None = None) -> Workload:
        """The row's attention in every pass; a second pass encodes first, and once more decodes for the transfer."""
        decodes = 1 if arm.detail_transfer is None else 2
        return Workload(
            encodes=int(self.second_pass), decodes=decodes, forwards=forwards_of(arm, arm.attention, steps, guided)
        )


def _check_regions(arm: ArmParams) -> None:
    """What counts steps or leaves out work itself, and attention that has to see all queries, refuse RAS."""
    if arm.region_adaptive is None:
        return
    if arm.step_cache is not None:
        raise ValueError("region_adaptive and step_cache both take over what earlier steps computed: leave one out")
    if arm.scheduler == "midpoint":
        raise ValueError("scheduler midpoint evaluates between the steps that region_adaptive counts: leave one out")
    if arm.long is not None:
        raise ValueError("region_adaptive keeps keys of whole clips, and long has chunks: leave one out")
    if rope_of(arm.rope).relative:
        raise ValueError("region_adaptive keeps keys after RoPE, and rope.kind 'ar' turns them by tiles: use another")
    require_selective(kind_of(arm.attention))


def _guidance(arm: ArmParams) -> str:
    """Scale, that of low noise, and interval, for the report."""
    low = "" if arm.guidance_scale_2 is None else f", {arm.guidance_scale_2:g} of the low-noise expert"
    where = "" if arm.guidance_interval is None else " at sigma {:g} to {:g}".format(*arm.guidance_interval)
    return f"guidance {arm.guidance_scale:g}{low}{where}"
