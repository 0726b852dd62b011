"""Coarse to fine: native clips without an adapter, then every arm's clips by its method."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import pandas as pd

from vibe_pipeline.diffusion.flow import sigma_schedule
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.generation.clip_cache import ClipJob, Make, Scale, make_clips
from vibe_pipeline.generation.clip_settings import base_settings, notes
from vibe_pipeline.generation.denoiser import Denoiser
from vibe_pipeline.generation.methods import ArmJob, method_of
from vibe_pipeline.generation.stages import Sampling
from vibe_pipeline.generation.text_cache import text_cache
from vibe_pipeline.generation.true_renders import true_renders
from vibe_pipeline.io.manifests import AdapterManifest, FilterManifest
from vibe_pipeline.miniature.world import world_settings


def native_clips(prompts: pd.DataFrame, model: ModelParams, params: GenerationParams, root: Path) -> pd.DataFrame:
    """The base's own clips at native size (full attention, no adapter), or true renders; shared by every arm.

    Args:
        prompts: One row a clip; see `load_prompts`.
        model: The base model, which makes the native clips.
        params: Steps, guidance, source.
        root: Folder of all clips and of the prompts' embeddings.

    Returns:
        `prompts` with key, path, preview_path and seconds of each native clip.
    """
    job = _true_job(model, params, root) if params.native_source == "truth" else _base_job(prompts, model, params, root)
    return make_clips(prompts, job)


def _true_job(model: ModelParams, params: GenerationParams, root: Path) -> ClipJob:
    """What the native clips would be if the base were perfect."""
    size = Scale.of(model.native)
    return ClipJob(
        name="native",
        settings={"native": model.native.model_dump(), "source": params.native_source, "world": world_settings()},
        folder=root / "native" / "truth",
        size=size,
        prepare=lambda: _rendering(size),
        batch_size=params.batch_size,
    )


def _base_job(prompts: pd.DataFrame, model: ModelParams, params: GenerationParams, root: Path) -> ClipJob:
    """From noise, by the base alone."""
    size = Scale.of(model.native)
    settings = {"native": model.native.model_dump(), "source": params.native_source} | base_settings(model, params)
    settings["sampling"] = [
        params.native_steps,
        params.native_guidance_scale,
        params.native_scheduler,
        model.flow_shift,
        *([] if params.native_guidance_scale_2 is None else [params.native_guidance_scale_2]),
    ]
    sampling = Sampling(
        sigmas=sigma_schedule(params.native_steps, model.flow_shift),
        scheduler=params.native_scheduler,
        guidance_scale=params.native_guidance_scale,
        guidance_scale_2=params.native_guidance_scale_2,
    )

    @contextmanager
    def prepare() -> Iterator[Make]:
        with Denoiser(model, params, text_cache(model, root), set(prompts["prompt"]), sampling) as denoiser:
            yield lambda rows: denoiser.from_noise(rows, size)

    return ClipJob(
        name="native",
        settings=settings,
        folder=root / "native" / "base",
        size=size,
        prepare=prepare,
        batch_size=params.batch_size,
        notes=notes(model, sampling),
    )


def reference_clips(prompts: pd.DataFrame, model: ModelParams, params: GenerationParams, root: Path) -> pd.DataFrame:
    """True renders at target size for the miniature's prompts; an empty table for any others."""
    if params.prompts != "miniature":
        return prompts.iloc[:0].assign(key="", path="", preview_path="", seconds=0.0)
    size = Scale.of(model.target)
    settings = {"source": "truth", "size": model.target.model_dump(), "world": world_settings()}
    job = ClipJob(
        name="reference",
        settings=settings,
        folder=root / "reference",
        size=size,
        prepare=lambda: _rendering(size),
        batch_size=params.batch_size,
    )
    return make_clips(prompts, job)


def arm_clips(
    name: str,
    arm: ArmParams,
    native: pd.DataFrame,
    adapter: AdapterManifest | None,
    stage1: AdapterManifest | None,
    model: ModelParams,
    params: GenerationParams,
    root: Path,
    linear_filter: FilterManifest | None = None,
) -> pd.DataFrame:
    """Every clip of one arm, by its method; see `methods.base.Method.clips`."""
    job = ArmJob(
        name=name,
        arm=arm,
        native=native,
        model=model,
        generation=params,
        root=root,
        adapter=adapter,
        stage1=stage1 if arm.keep_stage1 else None,
        linear_filter=linear_filter,
    )
    return method_of(arm).clips(job)


def _rendering(size: Scale) -> AbstractContextManager[Make]:
    return nullcontext(lambda rows: true_renders(rows, size))
