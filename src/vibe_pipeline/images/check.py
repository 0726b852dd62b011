"""Checking all training images before anything is trained, by the decoder that reads them then."""

import hashlib
import logging
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vibe_pipeline.images.crop import nearest_bucket
from vibe_pipeline.images.find import FoundImage
from vibe_pipeline.images.folder import CAPTION_SUFFIX
from vibe_pipeline.images.reading import MAX_PIXELS, BadImage, Examined, decode
from vibe_pipeline.io.errors import one_line
from vibe_pipeline.runtime.progress import Progress

log = logging.getLogger(__name__)

CHUNK = 8  # images a worker takes at a time
TOO_SMALL, NO_CAPTION, EMPTY_CAPTION = "too_small", "caption_missing", "caption_empty"
COLUMNS = FoundImage._fields[:4]  # of an image in use


def check_images(
    found: pd.DataFrame,
    sizes: Sequence[tuple[int, int]],
    max_caption_words: int,
    workers: int = 1,
    max_pixels: int = MAX_PIXELS,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Decode every image and sort the usable from the rest; the result depends on neither workers nor order.

    An image must cover that of the `sizes` whose proportions are nearest: then its crop never enlarges it. Of images
    with equal pixels the first by name is kept, among those that are usable otherwise.

    Args:
        found: What `find_images` returns; rows with a `reason` go to quarantine as they are.
        sizes: (height, width) in pixels that images are cut to; an image's own counts once it is upright.
        max_caption_words: Longest caption, in words between blanks.
        workers: Processes that decode, one image at a time each; 1 decodes in this one. They are spawned, so a
            script that asks for more than 1 needs its `if __name__ == "__main__"`.
        max_pixels: Most pixels by the header, looked at before decoding; Pillow itself stops at 178 million.

    Returns:
        usable: file_name, path, caption, caption_source, width, height (pixels, upright), mode (Pillow's name,
            as stored), sha256 (of the upright RGB pixels); quarantine: file_name, reason (one word), value (what
            was seen). Both sorted by file_name.

    Raises:
        ValueError: A column is absent, there are no sizes, or a limit is not positive.
        RuntimeError: A worker died, most likely for lack of memory.
    """
    if not sizes:
        raise ValueError("images cannot be checked without a size that they are to be cut to")
    limits = {"max_caption_words": max_caption_words, "workers": workers, "max_pixels": max_pixels}
    found = _validated(found, sizes=min(map(min, sizes)), **limits)
    faults = [caption_fault(row, max_caption_words) for row in found.itertuples(index=False)]
    paths = [path for path, fault in zip(found["path"], faults, strict=True) if fault is None]
    examine = partial(_examine, sizes=list(sizes), max_pixels=max_pixels)
    examined = iter(_map_images(examine, paths, workers))
    usable, quarantine = _sorted_out(found, [fault or next(examined) for fault in faults])
    log.debug("%d images usable, %d in quarantine", len(usable), len(quarantine))
    return usable, quarantine


def size_fault(height: int, width: int, sizes: Sequence[tuple[int, int]]) -> str:
    """What an image lacks to be cut to the nearest of the sizes, (height, width) in pixels; empty: nothing."""
    needed = nearest_bucket(height, width, list(sizes))
    if height >= needed[0] and width >= needed[1]:
        return ""
    return f"{height}x{width} (height x width), needs {needed[0]}x{needed[1]}; images are never enlarged"


def _validated(found: pd.DataFrame, **limits: int) -> pd.DataFrame:
    """The columns the check needs, as text, sorted by name."""
    if absent := [name for name in COLUMNS if name not in found]:
        raise ValueError(f"images to check lack the columns {absent}; have {list(found.columns)}")
    for name, limit in limits.items():
        if limit < 1:
            raise ValueError(f"{name} is {limit}; it must be at least 1")
    # Frames that were saved as CSV come back with NaN for empty text.
    found = found.reindex(columns=list(FoundImage._fields)).fillna("").astype("str")
    return found.sort_values("file_name", ignore_index=True)


def caption_fault(row: FoundImage, max_words: int) -> Examined | None:
    """What makes decoding needless: the search refused the image, or its caption is of no use."""
    words, source = len(row.caption.split()), row.caption_source
    if row.reason:
        return Examined(reason=row.reason, value=row.value)
    if not source and not words:
        return Examined(reason=NO_CAPTION, value="no text file beside it, and no metadata lists it")
    if not any(letter.isalnum() for letter in row.caption):
        return Examined(reason=EMPTY_CAPTION, value=f"{source}: {one_line(repr(row.caption))}")
    if words > max_words:
        return Examined(reason="caption_too_long", value=f"{source}: {words} words, at most {max_words}")
    return None


def _sorted_out(found: pd.DataFrame, examined: list[Examined]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The usable and the quarantine; duplicates and shared captions are told among the otherwise usable."""
    usable: list[tuple[Any, ...]] = []
    quarantine: list[tuple[str, str, str]] = []
    kept: dict[str, str] = {}  # file by digest of its pixels
    shared: dict[str, str] = {}  # image by caption's file
    for row, facts in zip(found.itertuples(index=False), examined, strict=True):
        if facts.reason:
            quarantine.append((row.file_name, facts.reason, facts.value))
        elif facts.sha256 in kept:
            quarantine.append((row.file_name, "duplicate", f"same pixels as {kept[facts.sha256]}"))
        elif row.caption_source in shared:
            quarantine.append((row.file_name, "caption_shared", _sharing(row, shared[row.caption_source])))
        else:
            kept[facts.sha256] = row.file_name
            if row.caption_source.lower().endswith(CAPTION_SUFFIX):  # metadata names every image by itself
                shared[row.caption_source] = row.file_name
            usable.append((*row[:4], *facts[:4]))
    types = dict.fromkeys((*COLUMNS, "mode", "sha256"), "str") | {"width": "int64", "height": "int64"}
    good = pd.DataFrame(usable, columns=[*COLUMNS, *Examined._fields[:4]]).astype(types)
    return good, pd.DataFrame(quarantine, columns=["file_name", "reason", "value"], dtype="str")


def _sharing(row: FoundImage, first: str) -> str:
    return f"{row.caption_source} is the caption of {first} already; give each image a name of its own, or use metadata"


def _map_images(examine: Callable[[str], Examined], paths: list[str], workers: int) -> list[Examined]:
    """Examine in order, with a progress bar; in processes of their own where that pays."""
    bar = partial(Progress, total=len(paths), desc="checking images", unit="image")
    workers = min(workers, math.ceil(len(paths) / CHUNK))
    if workers <= 1:
        return list(bar(map(examine, paths)))
    results: list[Examined] = []
    # Spawned, not forked: a forked copy of a process with threads may deadlock.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        try:
            for examined in bar(pool.map(examine, paths, chunksize=CHUNK)):
                results.append(examined)
        except BrokenProcessPool:
            raise RuntimeError(
                f"a process died while checking {paths[len(results)]} or one of the {CHUNK * workers} images after it, "
                f"most likely for lack of memory: use fewer than {workers} workers or a lower max_pixels"
            ) from None
    return results


def _examine(path: str, sizes: list[tuple[int, int]], max_pixels: int) -> Examined:
    """Decode one image; runs in a worker."""
    try:
        mode, pixels = decode(Path(path), max_pixels)
    except BadImage as bad:
        return Examined(reason=bad.reason, value=bad.value)
    height, width = pixels.shape[:2]
    if short := size_fault(height, width, sizes):
        return Examined(reason=TOO_SMALL, value=short)
    digest = hashlib.sha256(f"{pixels.shape} {pixels.dtype}".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return Examined(width, height, mode, digest.hexdigest())
