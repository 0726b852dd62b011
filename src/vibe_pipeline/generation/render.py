"""Coarse to fine: native clips without an adapter, then every arm's second pass."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from vibe_pipeline.diffusion.flow import sigma_schedule
from vibe_pipeline.diffusion.lifetime import released
from vibe_pipeline.diffusion.lora import fused_key
from vibe_pipeline.diffusion.models import (
    decode_video,
    encode_video,
    find_model,
    limit_threads,
    load_vae,
    pick_device,
)
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.generation.clip_cache import Job, Make, Rows, Scale, make_clips
from vibe_pipeline.generation.denoiser import Denoiser, Sampling
from vibe_pipeline.generation.methods.external import external_clips
from vibe_pipeline.generation.text_cache import TextStore
from vibe_pipeline.images.resize import enlarge
from vibe_pipeline.io.keys import file_sha256, folder_fingerprint
from vibe_pipeline.io.video import read_clip
from vibe_pipeline.miniature.scene import scene_of_prompt
from vibe_pipeline.miniature.world import CAMERA_SIGMA, render


def native_clips(prompts: pd.DataFrame, model: ModelParams, params: GenerationParams, root: Path) -> pd.DataFrame:
    """The base's own clips at native size (full attention, no adapter), or true renders; shared by every arm.

    Args:
        prompts: One row a clip; see `load_prompts`.
        model: The base.
        params: Steps, guidance, source.
        root: Folder of all clips and of the prompts' embeddings.

    Returns:
        `prompts` with key, path, preview_path and seconds of each native clip.
    """
    size = Scale.of(model.native)
    settings = {"native": model.native.model_dump(), "source": params.native_source}
    if params.native_source == "truth":
        settings["camera"] = CAMERA_SIGMA
        folder = root / "native" / "truth"
        return make_clips(
            prompts, Job("native", settings, folder, size, lambda: _render_truth(size), params.batch_size, {})
        )
    settings |= _base_settings(model, params)
    settings["sampling"] = [
        params.native_steps,
        params.native_guidance_scale,
        params.native_scheduler,
        model.flow_shift,
    ]
    sigmas = sigma_schedule(params.native_steps, model.flow_shift)
    sampling = Sampling(sigmas, params.native_scheduler, params.native_guidance_scale)

    @contextmanager
    def prepare() -> Iterator[Make]:
        with Denoiser(model, params, _texts(model, root), set(prompts["prompt"]), sampling) as denoiser:
            yield lambda rows: denoiser.from_noise(rows, size)

    folder = root / "native" / "base"
    job = Job("native", settings, folder, size, prepare, params.batch_size, _notes(model, sampling))
    return make_clips(prompts, job)


def reference_clips(prompts: pd.DataFrame, model: ModelParams, params: GenerationParams, root: Path) -> pd.DataFrame:
    """True renders at target size for the miniature's prompts; an empty table for any others."""
    if params.prompts != "miniature":
        return prompts.iloc[:0].assign(key="", path="", preview_path="", seconds=0.0)
    size = Scale.of(model.target)
    settings = {"source": "truth", "size": model.target.model_dump(), "camera": CAMERA_SIGMA}
    job = Job("reference", settings, root / "reference", size, lambda: _render_truth(size), params.batch_size, {})
    return make_clips(prompts, job)


def arm_clips(
    name: str,
    arm: ArmParams,
    native: pd.DataFrame,
    adapter: dict[str, Any] | None,
    stage1: dict[str, Any] | None,
    model: ModelParams,
    params: GenerationParams,
    root: Path,
) -> pd.DataFrame:
    """Every clip of one arm.

    Returns:
        One row a clip: arm, prompt_index, prompt, seed, path, preview_path, height, width, frames, fps, seconds,
        key, method, sigma_start, native_source, differs (of another system's clips: how from the target).
    """
    rows = native.rename(columns={"path": "native_path", "key": "native_key"})
    if arm.method == "external":
        made = external_clips(name, arm, rows, model, root / "arms" / name)
        return made.assign(method=arm.method, sigma_start=float("nan"), native_source="another system")
    size, kept = Scale.of(model.target), stage1 if arm.keep_stage1 else None
    sampling = arm_sampling(arm, model)
    settings = _base_settings(model, params) | {
        "arm": _arm_settings(arm),
        "adapter": adapter["key"] if adapter else None,
        "extra_adapters": [file_sha256(extra.path) for extra in arm.extra_adapters],
        "stage1": fused_key(kept["key"], getattr(torch, model.dtype)) if kept else None,
        "target": model.target.model_dump(),
        "flow_shift": model.flow_shift,
    }

    def prepare() -> AbstractContextManager[Make]:
        if arm.method == "upsample":
            return nullcontext(lambda rows: enlarge(_native_pixels(rows), size.height, size.width))
        if arm.method == "truth":
            return _truth_through_vae(model, size)
        return denoising()

    @contextmanager
    def denoising() -> Iterator[Make]:
        texts, prompts = _texts(model, root), set(native["prompt"])
        with Denoiser(model, params, texts, prompts, sampling, arm, adapter, kept) as denoiser:
            make = denoiser.from_noise if arm.method == "direct" else denoiser.refine
            yield lambda rows: make(rows, size)

    job = Job(name, settings, root / "arms" / name, size, prepare, params.batch_size, _notes(model, sampling))
    made = make_clips(rows, job)
    made.insert(0, "arm", name)
    sigma_start = float(sampling.sigmas[0])
    stated = {"method": arm.method, "sigma_start": sigma_start, "native_source": params.native_source, "differs": ""}
    return made.assign(**stated, **vars(size))


def _arm_settings(arm: ArmParams) -> dict[str, Any]:
    """What of the row determines its clips; without a field that came later and is off, so that older clips count."""
    off = {"detail_transfer"} if arm.detail_transfer is None else set()
    return arm.model_dump(mode="json", exclude={"label"} | off)


def arm_sampling(arm: ArmParams, model: ModelParams) -> Sampling:
    """An arm's noise levels, solver and guidance.

    Raises:
        ValueError: A share of the steps that leaves none.
    """
    sigmas = sigma_schedule(arm.steps, arm.flow_shift or model.flow_shift, arm.start, arm.steps_are)
    return Sampling(sigmas, arm.scheduler, arm.guidance_scale)


def _base_settings(model: ModelParams, params: GenerationParams) -> dict[str, Any]:
    return {
        "model": folder_fingerprint(find_model(model.path).path),
        "text": [model.text_length, params.negative_prompt],
        "precision": [model.dtype, model.vae_dtype, model.tile],
    }


def _notes(model: ModelParams, sampling: Sampling) -> dict[str, Any]:
    device = pick_device(model.device)
    return {
        "sigmas": [round(float(s), 6) for s in sampling.sigmas],
        "sigma_start": float(sampling.sigmas[0]),
        "steps": len(sampling.sigmas) - 1,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    }


def _texts(model: ModelParams, root: Path) -> TextStore:
    return TextStore(root / "prompts", find_model(model.path), model)


def _native_pixels(rows: Rows) -> torch.Tensor:
    return torch.stack([torch.from_numpy(read_clip(Path(r["native_path"]))).permute(3, 0, 1, 2) for r in rows])


def _render_truth(size: Scale) -> AbstractContextManager[Make]:
    return nullcontext(_truth(size))


def _truth(size: Scale) -> Make:
    def make(rows: Rows) -> torch.Tensor:
        clips = [render(scene_of_prompt(r["prompt"], r["seed"]), size.height, size.width, size.frames) for r in rows]
        return torch.from_numpy(np.stack(clips)).permute(0, 4, 1, 2, 3)

    return make


@contextmanager
def _truth_through_vae(model: ModelParams, size: Scale) -> Iterator[Make]:
    limit_threads(model.threads)
    truth, dtype = _truth(size), getattr(torch, model.vae_dtype)
    with released(load_vae(find_model(model.path), pick_device(model.device), model.tile, dtype)) as vae:
        yield lambda rows: torch.cat([decode_video(vae, encode_video(vae, clip[None])) for clip in truth(rows)])
