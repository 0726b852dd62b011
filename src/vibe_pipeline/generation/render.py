"""Coarse to fine: native clips without an adapter, then every arm's second pass.

A clip is kept with a manifest that says everything needed to remake it; one whose manifest carries the same
key is not made again, so a killed run loses at most the batch in work.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from vibe_pipeline.config import ArmParams, GenerationParams, ModelParams
from vibe_pipeline.diffusion import adapters as lora
from vibe_pipeline.diffusion.attention import install_gclf
from vibe_pipeline.diffusion.flow import add_noise, seeded_noise, sigma_schedule
from vibe_pipeline.diffusion.models import (
    decode_video,
    encode_texts,
    encode_video,
    find_model,
    latent_shape,
    limit_threads,
    load_transformer,
    load_vae,
    pick_device,
    require_fitting_size,
    token_grid,
    velocity_predictor,
)
from vibe_pipeline.diffusion.objectives import Predict
from vibe_pipeline.diffusion.sampling import denoise, guided
from vibe_pipeline.generation.clips import read_clip, write_lossless, write_preview
from vibe_pipeline.identity import content_key, folder_fingerprint, read_json, require_space, write_json
from vibe_pipeline.images.camera import enlarge
from vibe_pipeline.miniature.scene import scene_of_prompt
from vibe_pipeline.miniature.world import CAMERA_SIGMA, render

log = logging.getLogger(__name__)

Rows = list[dict[str, Any]]
Make = Callable[[Rows], Tensor]
"""Rows of prompts to pixels [B, 3, T, H, W] in [0, 1]."""


@dataclass(frozen=True)
class Scale:
    """Output size and what a manifest records beside the arm's own settings."""

    height: int
    width: int
    frames: int
    fps: float


def native_clips(prompts: pd.DataFrame, model: ModelParams, params: GenerationParams, folder: Path) -> pd.DataFrame:
    """The base's own clips at native size (full attention, no adapter), or true renders; shared by every arm.

    Returns:
        `prompts` with path, key and seconds of each native clip.
    """
    settings = {
        "model": folder_fingerprint(find_model(model.path).path),
        "native": model.native.model_dump(),
        "source": params.native_source,
        "text": [model.text_length, params.negative_prompt],
    }
    size = Scale(model.native.height, model.native.width, model.native.frames, model.native.fps)
    if params.native_source == "truth":
        settings["camera"] = CAMERA_SIGMA
        return _make(prompts, settings, folder / "truth", size, lambda: _render_truth(size), params.batch_size)
    settings["sampling"] = [
        params.native_steps,
        params.native_guidance_scale,
        model.flow_shift,
        model.dtype,
        model.tile,
    ]

    def prepare() -> Make:
        denoiser = Denoiser(model, params, prompts, sigma_schedule(params.native_steps, model.flow_shift))
        return lambda rows: denoiser.from_noise(rows, size, params.native_guidance_scale)

    return _make(prompts, settings, folder / "base", size, prepare, params.batch_size)


def reference_clips(prompts: pd.DataFrame, model: ModelParams, params: GenerationParams, folder: Path) -> pd.DataFrame:
    """True renders at target size for the miniature's prompts; an empty table for any others."""
    if params.prompts != "miniature":
        return pd.DataFrame(columns=["prompt_index", "prompt", "seed", "key", "path", "preview_path", "seconds"])
    size = Scale(model.target.height, model.target.width, model.target.frames, model.target.fps)
    settings = {"source": "truth", "size": model.target.model_dump(), "camera": CAMERA_SIGMA}
    return _make(prompts, settings, folder, size, lambda: _render_truth(size), params.batch_size)


def arm_clips(
    name: str,
    arm: ArmParams,
    native: pd.DataFrame,
    adapter: dict[str, Any] | None,
    stage1: dict[str, Any] | None,
    model: ModelParams,
    params: GenerationParams,
    folder: Path,
) -> pd.DataFrame:
    """Every clip of one arm at target size.

    Returns:
        One row a clip: arm, prompt_index, prompt, seed, path, preview_path, height, width, frames, fps, seconds,
        key, method, sigma_start, native_source.
    """
    size = Scale(model.target.height, model.target.width, model.target.frames, model.target.fps)
    settings = {
        "arm": arm.model_dump(mode="json", exclude={"label"}),
        "adapter": adapter["key"] if adapter else None,
        "stage1": stage1["key"] if stage1 and arm.keep_stage1 else None,
        "model": folder_fingerprint(find_model(model.path).path),
        "target": model.target.model_dump(),
        "sampling": [model.flow_shift, model.text_length, params.negative_prompt, model.dtype, model.tile],
    }

    def prepare() -> Make:
        if arm.method == "upsample":
            return lambda rows: enlarge(_native_pixels(rows), size.height, size.width)
        if arm.method == "truth":
            return _truth_through_vae(model, size)
        sigmas = sigma_schedule(
            arm.steps, model.flow_shift, arm.strength if arm.method == "refine" else 1.0, arm.steps_are
        )
        denoiser = Denoiser(model, params, native, sigmas, arm, adapter, stage1)
        if arm.method == "direct":
            return lambda rows: denoiser.from_noise(rows, size, arm.guidance_scale)
        return lambda rows: denoiser.refine(rows, size, arm.guidance_scale)

    rows = native.rename(columns={"path": "native_path", "key": "native_key"})
    made = _make(rows, settings, folder / name, size, prepare, params.batch_size)
    strength = arm.strength if arm.method == "refine" else 1.0
    sigma = float(sigma_schedule(arm.steps, model.flow_shift, strength, arm.steps_are)[0])
    made.insert(0, "arm", name)
    return made.assign(method=arm.method, sigma_start=sigma, native_source=params.native_source, **vars(size))


class Denoiser:
    """Transformer and VAE of one arm with its text embeddings; the text encoder is gone when this is built."""

    def __init__(
        self,
        model: ModelParams,
        params: GenerationParams,
        prompts: pd.DataFrame,
        sigmas: Tensor,
        arm: ArmParams | None = None,
        adapter: dict[str, Any] | None = None,
        stage1: dict[str, Any] | None = None,
    ) -> None:
        limit_threads(model.threads)
        self.found, self.sigmas = find_model(model.path), sigmas
        self.device, self.dtype = pick_device(model.device), getattr(torch, model.dtype)
        texts = sorted({*prompts["prompt"], params.negative_prompt})
        embedded = encode_texts(self.found, texts, model.text_length, self.device, self.dtype)
        self.text = dict(zip(texts, embedded, strict=True))
        self.negative = params.negative_prompt
        self.transformer = load_transformer(self.found, self.device, self.dtype)
        if arm is not None and arm.keep_stage1 and stage1 is not None:
            lora.fuse_adapter(self.transformer, Path(stage1["path"]))
        if adapter is not None:
            lora.load_adapter(self.transformer, Path(adapter["path"]), adapter["name"])
        if arm is not None and arm.attention.kind != "full":
            install_gclf(
                self.transformer, arm.attention, token_grid(self.found, model.native.height, model.native.width)
            )
        self.vae = load_vae(self.found, self.device, model.tile)

    def _predict(self, rows: Rows, guidance_scale: float) -> Predict:
        conditional = torch.stack([self.text[r["prompt"]] for r in rows])
        empty = self.text[self.negative].expand_as(conditional)
        one, other = (
            velocity_predictor(self.transformer, t, self.found.expand_timesteps, self.dtype)
            for t in (conditional, empty)
        )
        return guided(one, other, guidance_scale)

    def _noise(self, rows: Rows, size: Scale) -> Tensor:
        config = dict(self.vae.config)
        require_fitting_size(config, self.transformer.config.patch_size, size.height, size.width, "clip")
        shape = latent_shape(config, size.height, size.width, size.frames)
        return torch.stack([seeded_noise(shape, r["prompt"], r["seed"]) for r in rows])

    def from_noise(self, rows: Rows, size: Scale, guidance_scale: float) -> Tensor:
        """Text to video from pure noise."""
        noise = self._noise(rows, size).to(self.device)
        return decode_video(self.vae, denoise(self._predict(rows, guidance_scale), noise, self.sigmas))

    def refine(self, rows: Rows, size: Scale, guidance_scale: float) -> Tensor:
        """The second pass: enlarge, encode, noise to sigma_start, denoise."""
        enlarged = enlarge(_native_pixels(rows), size.height, size.width)
        latent = torch.cat([encode_video(self.vae, clip[None]) for clip in enlarged])
        start = add_noise(latent, self._noise(rows, size), self.sigmas[0].expand(len(rows)))
        return decode_video(self.vae, denoise(self._predict(rows, guidance_scale), start.to(self.device), self.sigmas))


def _native_pixels(rows: Rows) -> Tensor:
    return torch.stack([torch.from_numpy(read_clip(Path(r["native_path"]))).permute(3, 0, 1, 2) for r in rows])


def _render_truth(size: Scale) -> Make:
    def make(rows: Rows) -> Tensor:
        clips = [render(scene_of_prompt(r["prompt"], r["seed"]), size.height, size.width, size.frames) for r in rows]
        return torch.from_numpy(np.stack(clips)).permute(0, 4, 1, 2, 3)

    return make


def _truth_through_vae(model: ModelParams, size: Scale) -> Make:
    limit_threads(model.threads)
    vae = load_vae(find_model(model.path), pick_device(model.device), model.tile)
    truth = _render_truth(size)
    return lambda rows: torch.cat([decode_video(vae, encode_video(vae, clip[None])) for clip in truth(rows)])


def _make(
    prompts: pd.DataFrame,
    settings: dict[str, Any],
    folder: Path,
    size: Scale,
    prepare: Callable[[], Make],
    batch_size: int,
) -> pd.DataFrame:
    """Make the clips that are not there yet; `prepare` loads models and is called only if there are any."""
    rows: Rows = prompts.to_dict("records")
    for row in rows:
        row["key"] = content_key(settings, row["prompt"], row["seed"], row.get("native_key"))
        # The key is in the name, so that changing a setting back finds the clips that were made with it.
        stem = folder / f"{row['prompt_index']:04d}-{row['seed']}-{row['key'][:8]}"
        row |= {"path": str(stem.with_suffix(".mp4")), "preview_path": str(stem.with_suffix(".preview.mp4"))}
    missing = [r for r in rows if not _is_made(r)]
    require_space(folder, len(missing) * size.frames * size.height * size.width * 3)
    make = prepare() if missing else None
    with tqdm(
        total=len(rows), initial=len(rows) - len(missing), desc=f"clips {folder.name}", unit="clip", mininterval=2
    ) as bar:
        for start in range(0, len(missing), batch_size):
            batch = missing[start : start + batch_size]
            begun = time.monotonic()
            pixels = make(batch)
            _keep(batch, pixels, settings, size, time.monotonic() - begun)
            bar.update(len(batch))
    for row in rows:
        row["seconds"] = read_json(Path(row["path"]).with_suffix(".json"))["seconds"]
    return pd.DataFrame(rows)


def _is_made(row: dict[str, Any]) -> bool:
    manifest = Path(row["path"]).with_suffix(".json")
    if not (manifest.exists() and Path(row["path"]).exists() and Path(row["preview_path"]).exists()):
        return False
    content = read_json(manifest)
    return content["key"] == row["key"] and content["bytes"] == Path(row["path"]).stat().st_size


def _keep(batch: Rows, pixels: Tensor, settings: dict[str, Any], size: Scale, seconds: float) -> None:
    for row, clip in zip(batch, pixels.permute(0, 2, 3, 4, 1).numpy(), strict=True):
        path = write_lossless(Path(row["path"]), clip, size.fps)
        write_preview(Path(row["preview_path"]), clip, size.fps)
        manifest = {
            "key": row["key"],
            "prompt": row["prompt"],
            "seed": row["seed"],
            "settings": settings,
            "size": vars(size),
            "seconds": seconds / len(batch),
            "bytes": path.stat().st_size,
            "versions": {"torch": torch.__version__, "diffusers": diffusers.__version__},
        }
        write_json(path.with_suffix(".json"), manifest)
