"""The linear filter of stage 2's own stills: what they say of large frames to whoever may only add and scale.

A still, and the same shrunk by the camera that native clips have, are a true pair. The filter is fitted on all patches
of many of them, so a few stills are enough, and images of any size serve a target of another: only the enlargement
counts. Images that are held out of training are held out here too: the filter knows no more than stage 2 does.
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from vibe_pipeline.diffusion.linear_filter import LinearFilter, fit_linear_filter
from vibe_pipeline.experiment.data import DataParams
from vibe_pipeline.images.account import held_out_rows
from vibe_pipeline.images.buckets import Bucket, Size
from vibe_pipeline.images.crop import nearest_bucket, resize_and_crop
from vibe_pipeline.images.patches import MOST_STILLS, Patch, patch_of
from vibe_pipeline.images.reading import load_rgb
from vibe_pipeline.images.resize import shrink
from vibe_pipeline.io.files import write_atomic
from vibe_pipeline.io.keys import content_key
from vibe_pipeline.io.manifests import FilterManifest
from vibe_pipeline.runtime.deadline import require_time
from vibe_pipeline.runtime.progress import Progress

log = logging.getLogger(__name__)

VERSION = 1
Array = NDArray[np.float32]


def filter_of_stills(
    usable: pd.DataFrame, buckets: Sequence[Bucket], clips: tuple[Size, Size], data: DataParams, folder: Path
) -> FilterManifest:
    """Fit the filter once for a data set and an enlargement; what was fitted before is kept.

    Args:
        usable: Columns path and sha256; with several buckets also height and width.
        buckets: What images are cut to.
        clips: Native and target size of the run's clips.
        data: The native camera's blur, and which images are held out.
        folder: Gets the gains, `KEY.safetensors`.

    Raises:
        ValueError: The stills are too small for the enlargement, or too few.
        OutOfTimeError: The run's hours are spent.
    """
    patch = patch_of(*clips, [bucket.high for bucket in buckets])
    rows = usable.drop(usable.index[sorted(held_out_rows(len(usable), data))])
    rows = rows.iloc[np.linspace(0, len(rows) - 1, min(len(rows), MOST_STILLS)).round().astype(int)]
    sizes = [_size(row, buckets) for row in rows.to_dict("records")]
    contents = list(zip(rows["sha256"], sizes, strict=True))
    key = content_key(VERSION, contents, [patch.native, patch.target], data.camera_blur)
    path = folder / f"{key}.safetensors"
    if not path.exists():
        stills = zip(map(Path, rows["path"]), sizes, strict=True)
        shown = Progress(stills, total=len(rows), desc="linear filter", unit="image")
        blur = data.camera_blur
        fitted = fit_linear_filter(pair for still, size in shown for pair in _pairs(still, size, patch, blur))
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(path, fitted.save)
    log.info("linear filter of %d stills, %s to %s pixels: %s", len(rows), patch.native, patch.target, path)
    return FilterManifest(key=key, path=path, stills=len(rows))


def read_filter(manifest: FilterManifest, native: Size, target: Size) -> LinearFilter:
    """The filter for clips of these sizes.

    Raises:
        ValueError: The file is damaged, or was fitted for another enlargement.
    """
    return LinearFilter.read(manifest.path).at(native, target)


def _size(row: dict[str, int], buckets: Sequence[Bucket]) -> Size:
    sizes = [bucket.high for bucket in buckets]
    return sizes[0] if len(sizes) == 1 else nearest_bucket(row["height"], row["width"], sizes)


def _pairs(path: Path, size: Size, patch: Patch, blur: float) -> Iterator[tuple[Array, Array]]:
    """All patches of a still as the native clip would show them, in 8 bit as clips are, and as they are."""
    require_time("part of the linear filter's stills")
    still = resize_and_crop(load_rgb(path), *size)
    down, across = (side // whole for side, whole in zip(size, patch.target, strict=True))
    still = np.ascontiguousarray(still[: down * patch.target[0], : across * patch.target[1]])
    pixels = torch.from_numpy(still).permute(2, 0, 1)[None, :, None]
    small = shrink(pixels, down * patch.native[0], across * patch.native[1], blur)[0, :, 0].permute(1, 2, 0)
    seen = np.rint(small.numpy() * 255).astype(np.float32) / 255
    yield _cut(seen, patch.native), _cut(still, patch.target)


def _cut(frame: Array, size: Size) -> Array:
    """[H, W, C] into its patches, [n, h, w, C]."""
    height, width, channels = frame.shape
    rows = frame.reshape(height // size[0], size[0], width // size[1], size[1], channels)
    return rows.transpose(0, 2, 1, 3, 4).reshape(-1, *size, channels)
