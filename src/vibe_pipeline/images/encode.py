"""Encoding captions and images into shards: text encoder first, then the VAE, never both in memory.

A shard is written under a temporary name and renamed, so a kill at any time costs the one in work. Held in memory:
the tensors of one shard, and the pixels of the batches at work.
"""

import logging
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vibe_pipeline.diffusion.lifetime import released
from vibe_pipeline.diffusion.models import (
    WanCheckpoint,
    encode_video,
    latent_shape,
    load_vae,
    pick_device,
    text_embeddings,
)
from vibe_pipeline.experiment.data import DataParams, PixelDraws
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.images.buckets import Bucket, Size
from vibe_pipeline.images.crop import resize_and_crop
from vibe_pipeline.images.reading import load_rgb
from vibe_pipeline.images.resize import enlarge, shrink, there_and_back
from vibe_pipeline.io.files import remove_abandoned, require_space, write_atomic
from vibe_pipeline.runtime.deadline import require_time
from vibe_pipeline.runtime.progress import Progress

log = logging.getLogger(__name__)

AHEAD = 2  # batches of pixels prepared while the VAE works
HEADROOM = 1.02  # headers, and what a file system rounds up
Row = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """Captions, and the file for their embeddings."""

    path: Path
    rows: list[Row]


@dataclass(frozen=True)
class ImageShard(Shard):
    """Images, all of one bucket, and the file for their latents."""

    bucket: Bucket


def encode_shards(
    texts: Sequence[Shard], images: Sequence[ImageShard], model: WanCheckpoint, params: ModelParams, data: DataParams
) -> None:
    """Write the shards that are not there, or damaged.

    Args:
        texts: Rows with `sha256` and `caption`; get tensors `SHA256.text`, [L, width].
        images: Rows with `sha256` and `path`; get `SHA256.low`, `.high` and `.pixel`, and with `data.pixel_draws`
            `.drawn0`, `.drawn1` and so on, [C, 1, h, w], 16 bit.
        model: The base model.
        params: Its text length, dtype, device and tile.
        data: The native camera's blur, drawn factors of shrinking, and how many images go through the VAE together.

    Raises:
        OSError: They would not fit on the disk, or no longer do; finished shards stay.
        ValueError: A caption is too long for the text encoder.
        OutOfTimeError: The run's hours are spent; finished shards stay.
    """
    texts, images = [s for s in texts if not _whole(s.path)], [s for s in images if not _whole(s.path)]
    draws = data.pixel_draws.count if data.pixel_draws else 0
    for folder in {shard.path.parent for shard in (*texts, *images)}:
        remove_abandoned(folder, ".safetensors")
        require_space(folder, _needed(texts, images, model, params, draws))
    device = pick_device(params.device)
    if texts:
        _encode_texts(texts, model, params, device)
    if images:
        _encode_images(images, model, params, data, device)


def prepare_pixels(rows: Sequence[Row], bucket: Bucket, data: DataParams) -> dict[str, Tensor]:
    """Read some images, by their `path`, and cut them to a bucket.

    Returns:
        `high`; `low`, its middle in the low size's own proportions, shrunk; `pixel`, high shrunk to native and
        enlarged back; `drawn0` and so on, high shrunk by drawn factors and enlarged back: [B, 3, 1, H, W] in [0, 1].
    """
    blur = data.camera_blur
    images = np.stack([resize_and_crop(load_rgb(Path(row["path"])), *bucket.high) for row in rows])
    high = torch.from_numpy(images).permute(0, 3, 1, 2)[:, :, None]
    low = shrink(_middle(high, bucket.low), *bucket.low, blur)
    parts = {"low": low, "high": high, "pixel": enlarge(shrink(high, *bucket.native, blur), *bucket.high)}
    draws = data.pixel_draws
    if draws:
        for draw in range(draws.count):
            factors = [drawn_factor(row["sha256"], draw, draws, data.seed) for row in rows]
            enlarged = [there_and_back(x[None], f) for x, f in zip(high, factors, strict=True)]
            parts[f"drawn{draw}"] = torch.cat(enlarged)
    return parts


def drawn_factor(sha256: str, draw: int, draws: PixelDraws, seed: int) -> float:
    """By how much a draw of an image is shrunk: even between the two ends, and the same whatever batch it is in."""
    rng = np.random.default_rng([seed, draw, *sha256.encode()])
    return float(rng.uniform(draws.least, draws.most))


def _middle(pixels: Tensor, proportions: Size) -> Tensor:
    """The largest cut from the middle that has these proportions; all of it where they are its own."""
    height, width = pixels.shape[-2:]
    scale = min(height / proportions[0], width / proportions[1])
    rows, columns = round(proportions[0] * scale), round(proportions[1] * scale)
    top, left = (height - rows) // 2, (width - columns) // 2
    return pixels[..., top : top + rows, left : left + columns]


def _encode_texts(shards: list[Shard], model: WanCheckpoint, params: ModelParams, device: torch.device) -> None:
    captions = (row["caption"] for shard in shards for row in shard.rows)
    bar = Progress[None](total=sum(len(s.rows) for s in shards), desc="encoding captions", unit="caption")
    embeddings = text_embeddings(model, captions, params.text_length, device, getattr(torch, params.dtype))
    with bar, closing(embeddings):
        for shard in shards:
            require_time(f"{bar.n} encoded captions")
            _write(shard, {f"{row['sha256']}.text": next(embeddings) for row in shard.rows})
            bar.update(len(shard.rows))


def _encode_images(
    shards: list[ImageShard], model: WanCheckpoint, params: ModelParams, data: DataParams, device: torch.device
) -> None:
    bar = Progress[None](total=sum(len(s.rows) for s in shards), desc="encoding images", unit="image")
    with bar, released(load_vae(model, device, params.tile, getattr(torch, params.vae_dtype))) as vae:
        for shard in shards:
            require_time(f"all encoded captions, {bar.n} encoded images")
            tensors: dict[str, Tensor] = {}
            starts = range(0, len(shard.rows), data.encode_batch)
            batches = [shard.rows[start : start + data.encode_batch] for start in starts]
            prepare = partial(prepare_pixels, bucket=shard.bucket, data=data)
            for batch, pixels in zip(batches, _ahead(prepare, batches), strict=True):
                for part, values in pixels.items():
                    latents = encode_video(vae, values).to(torch.float16)
                    tensors |= {f"{r['sha256']}.{part}": x.clone() for r, x in zip(batch, latents, strict=True)}
                bar.update(len(batch))
            _write(shard, tensors)


def _ahead(prepare: Callable[[Any], T], items: Sequence[Any]) -> Iterator[T]:
    """Prepare items in order in a thread, at most AHEAD of them before they are asked for."""
    with ThreadPoolExecutor(1) as pool:
        waiting: deque[Future[T]] = deque()
        for item in items:
            waiting.append(pool.submit(prepare, item))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _write(shard: Shard, tensors: dict[str, Tensor]) -> None:
    try:
        write_atomic(shard.path, lambda path: save_file(tensors, path))
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"{shard.path} could not be written ({error}); finished shards are kept: free some space and run again"
        ) from error


def _whole(path: Path) -> bool:
    """A shard that is there was renamed into place when whole, but may have been damaged since."""
    try:
        with suppress(FileNotFoundError), safe_open(path, framework="pt") as file:
            return bool(file.keys())
    except SafetensorError:
        log.warning("%s is damaged and will be made again", path)
    return False


def _needed(
    texts: Sequence[Shard], images: Sequence[ImageShard], model: WanCheckpoint, params: ModelParams, draws: int
) -> int:
    """Bytes of the shards to be written."""
    vae, width = model.config_of("vae"), model.config_of("text_encoder")["d_model"]
    caption = params.text_length * width * getattr(torch, params.dtype).itemsize
    total = sum(len(shard.rows) for shard in texts) * caption
    for shard in images:
        sizes = (shard.bucket.low, *(2 + draws) * (shard.bucket.high,))
        values = sum(math.prod(latent_shape(vae, height, width, 1)) for height, width in sizes)
        total += len(shard.rows) * values * torch.float16.itemsize
    return int(total * HEADROOM)
