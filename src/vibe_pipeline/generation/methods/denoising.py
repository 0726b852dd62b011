"""What methods share that run the transformer: which rows they refuse, how the report says them, the models loaded."""

from functools import partial
from typing import TYPE_CHECKING, Any

from vibe_pipeline.diffusion.attention import attention_words, kind_of, require_windowed
from vibe_pipeline.diffusion.regions import require_selective
from vibe_pipeline.diffusion.rope import rope_of
from vibe_pipeline.diffusion.step_cache import step_cache_of
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.generation.methods.base import ArmJob, Method, Workload
from vibe_pipeline.generation.methods.forwards import own_forwards, require_whole_steps, unconditional_of

if TYPE_CHECKING:
    from vibe_pipeline.generation.denoiser import Denoiser
    from vibe_pipeline.generation.experts import Expert


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
        _check_unconditional(arm)
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
            attach=partial(self.attach, offload=bool(job.model.offload)),
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
        return Workload(encodes=int(self.second_pass), decodes=decodes, forwards=own_forwards(arm, steps, guided))


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


def _check_unconditional(arm: ArmParams) -> None:
    """A pass without the prompt runs, attends to more than its window otherwise, and is the one that is told."""
    if arm.unconditional_attention is None:
        return
    if arm.guidance_scale == 1 and (arm.guidance_scale_2 or 1) == 1:
        raise ValueError(
            "unconditional_attention is of guidance's pass without the prompt, which guidance_scale 1 leaves out: "
            "raise guidance_scale, or leave unconditional_attention out"
        )
    if arm.region_adaptive is not None:
        raise ValueError(
            "region_adaptive does not tell attention which guidance pass runs: leave unconditional_attention out"
        )
    try:
        unconditional_of(arm)
    except ValueError as error:
        raise ValueError(f"unconditional_attention: {error}") from None


def _guidance(arm: ArmParams) -> str:
    """Scale, that of low noise, interval, and the other pass's attention, for the report."""
    low = "" if arm.guidance_scale_2 is None else f", {arm.guidance_scale_2:g} of the low-noise expert"
    where = "" if arm.guidance_interval is None else " at sigma {:g} to {:g}".format(*arm.guidance_interval)
    alone = "" if arm.unconditional_attention is None else ", without the prompt by the window alone"
    return f"guidance {arm.guidance_scale:g}{low}{where}{alone}"
