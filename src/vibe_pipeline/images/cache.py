"""Latents and text embeddings, computed once: sharded safetensors named by what determines them.

Text encoder and VAE are gone from memory before training starts. A killed run loses at most one shard.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from diffusers import AutoencoderKLWan
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from vibe_pipeline.config import DataParams, ModelParams
from vibe_pipeline.diffusion.models import WanFolder, encode_texts, encode_video, load_vae, pick_device
from vibe_pipeline.identity import content_key, folder_fingerprint, write_atomic, write_json
from vibe_pipeline.images.camera import enlarge, shrink
from vibe_pipeline.images.check import load_rgb
from vibe_pipeline.images.sizing import resize_and_crop

log = logging.getLogger(__name__)

SHARD = 64
PARTS = ("low", "high", "pixel", "text")


@dataclass(frozen=True)
class CacheEntry:
    """One image in the cache."""

    sha256: str
    caption: str
    shard: Path
    held_out: bool


def build_cache(
    usable: pd.DataFrame, model: WanFolder, params: ModelParams, data: DataParams, folder: Path
) -> dict[str, Any]:
    """Encode every usable image (low, high, high after pixel degradation) and its caption.

    Args:
        usable: Columns path, caption, sha256, in a fixed order.
        model: The base model.
        params: Its native size, dtype and device.
        data: Image sizes and the native camera's blur.
        folder: Gets the shards.

    Returns:
        A manifest: key, settings, and one record per image (sha256, caption, shard, held_out).
    """
    settings = {
        "model": folder_fingerprint(model.path),
        "native": params.native.model_dump(include={"height", "width"}),
        "low": data.low.model_dump(include={"height", "width"}),
        "high": data.high.model_dump(include={"height", "width"}),
        "camera_blur": data.camera_blur,
        "text_length": params.text_length,
        "dtype": params.dtype,
        "tile": params.tile,
    }
    rows = usable.to_dict("records")
    groups = [rows[i : i + SHARD] for i in range(0, len(rows), SHARD)]
    names = [folder / f"{content_key(settings, [(r['sha256'], r['caption']) for r in g])}.safetensors" for g in groups]
    missing = [(g, n) for g, n in zip(groups, names, strict=True) if not _whole(n)]
    if missing:
        _encode(missing, model, params, data)
    records = [
        {"sha256": r["sha256"], "caption": r["caption"], "shard": str(n), "held_out": False}
        for g, n in zip(groups, names, strict=True)
        for r in g
    ]
    for i in np.random.default_rng(data.seed).permutation(len(records))[: data.held_out]:
        records[i]["held_out"] = True
    contents = [(r["sha256"], r["caption"], r["held_out"]) for r in records]
    manifest = {"key": content_key(settings, contents), "settings": settings, "images": records}
    write_json(folder / "manifest.json", manifest)
    return manifest


def _whole(path: Path) -> bool:
    """A shard that is there was renamed into place when whole, but may have been damaged since."""
    try:
        return path.exists() and bool(load_file(path))
    except SafetensorError:
        log.warning("%s is damaged and will be made anew", path)
        return False


def _encode(
    missing: Sequence[tuple[list[dict], Path]], model: WanFolder, params: ModelParams, data: DataParams
) -> None:
    device = pick_device(params.device)
    captions = [r["caption"] for g, _ in missing for r in g]
    texts = iter(encode_texts(model, captions, params.text_length, device, getattr(torch, params.dtype)))
    vae = load_vae(model, device, params.tile)
    with tqdm(total=len(captions), desc="encoding images", unit="image", mininterval=5) as bar:
        for group, path in missing:
            tensors = {f"{row['sha256']}.text": next(texts).clone() for row in group}
            for start in range(0, len(group), data.encode_batch):
                batch = group[start : start + data.encode_batch]
                for part, latents in encode_images(vae, [Path(r["path"]) for r in batch], params, data).items():
                    named = zip(batch, latents.to(torch.float16), strict=True)
                    tensors |= {f"{row['sha256']}.{part}": latent.contiguous() for row, latent in named}
                bar.update(len(batch))
            write_atomic(path, partial(save_file, tensors))


def encode_images(
    vae: AutoencoderKLWan, paths: Sequence[Path], params: ModelParams, data: DataParams
) -> dict[str, Tensor]:
    """The latents of some images, [B, C, 1, h, w] each: low, high, and high after pixel degradation."""
    images = np.stack([resize_and_crop(load_rgb(p), data.high.height, data.high.width) for p in paths])
    high = torch.from_numpy(images).permute(0, 3, 1, 2)[:, :, None]
    low = shrink(high, data.low.height, data.low.width, data.camera_blur)
    native = low
    if (data.low.height, data.low.width) != (params.native.height, params.native.width):
        native = shrink(high, params.native.height, params.native.width, data.camera_blur)
    pixel = enlarge(native, data.high.height, data.high.width)
    return {"low": encode_video(vae, low), "high": encode_video(vae, high), "pixel": encode_video(vae, pixel)}


class LatentCache:
    """The cached training set in memory, by part."""

    def __init__(self, manifest: dict[str, Any], held_out: bool = False) -> None:
        records = [CacheEntry(r["sha256"], r["caption"], Path(r["shard"]), r["held_out"]) for r in manifest["images"]]
        self.entries = [r for r in records if r.held_out == held_out]
        if not self.entries:
            raise ValueError(
                f"the latent cache {manifest['key']} holds no {'held-out' if held_out else 'training'} images"
            )
        shards = {p: load_file(p) for p in {e.shard for e in self.entries}}
        self.parts = {part: [shards[e.shard][f"{e.sha256}.{part}"] for e in self.entries] for part in PARTS}

    def __len__(self) -> int:
        return len(self.entries)

    def batch(self, part: str, indices: Sequence[int]) -> Tensor:
        """Stack one part of some images, 32 bit: [B, C, 1, h, w], or [B, L, width] for text."""
        return torch.stack([self.parts[part][i] for i in indices]).float()


def epoch_batches(count: int, batch_size: int, seed: int) -> Iterator[list[int]]:
    """Endless shuffled batches, every image once an epoch; a pure function of its arguments.

    Raises:
        ValueError: Fewer images than one batch.
    """
    if count < batch_size:
        raise ValueError(f"{count} training images do not fill a batch of {batch_size}: lower batch_size or add images")
    epoch = 0
    while True:
        order = np.random.default_rng([seed, epoch]).permutation(count)
        for start in range(0, count - batch_size + 1, batch_size):
            yield order[start : start + batch_size].tolist()
        epoch += 1
