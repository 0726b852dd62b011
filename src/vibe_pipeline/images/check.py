"""Checking all training images before anything is trained, and reading one: by the same decoder, `_decode`."""

import hashlib
import io
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, ImageFile, PngImagePlugin

from vibe_pipeline.images.crop import nearest_bucket
from vibe_pipeline.images.find import FoundImage
from vibe_pipeline.images.folder import CAPTION_SUFFIX
from vibe_pipeline.images.formats import FORMATS, MAX_TEXT, refusal_by_error
from vibe_pipeline.io.errors import one_line
from vibe_pipeline.runtime.progress import Progress

log = logging.getLogger(__name__)

MAX_PIXELS = 80_000_000  # 12000 x 6666: above any camera, and 240 MB decoded
CHUNK = 8  # images a worker takes at a time
TOO_SMALL, NO_CAPTION, EMPTY_CAPTION = "too_small", "caption_missing", "caption_empty"
COLUMNS = FoundImage._fields[:4]  # of an image in use
TURNS = Image.Transpose
UPRIGHT = {  # EXIF orientation -> what turns the picture upright
    **{2: TURNS.FLIP_LEFT_RIGHT, 3: TURNS.ROTATE_180, 4: TURNS.FLIP_TOP_BOTTOM, 5: TURNS.TRANSPOSE},
    **{6: TURNS.ROTATE_270, 7: TURNS.TRANSVERSE, 8: TURNS.ROTATE_90},
}
SIDEWAYS = frozenset({5, 6, 7, 8})
"""The orientations whose turn swaps height and width."""


class BadImage(ValueError):
    """An image that cannot be used; `reason` is one word for counting, `value` what was seen."""

    def __init__(self, path: str, reason: str, value: str) -> None:
        super().__init__(path, reason, value)
        self.path, self.reason, self.value = path, reason, value

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}: {self.value}"


class Examined(NamedTuple):
    """What is known of one image, decoded or by its header: its facts, or why it cannot be used."""

    width: int = 0
    height: int = 0
    mode: str = ""
    sha256: str = ""
    reason: str = ""
    value: str = ""


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


def load_rgb(path: Path) -> NDArray[np.float32]:
    """Read an image as the training sees it.

    Turned upright by EXIF; colours converted to sRGB by the embedded profile; transparency laid on white.
    16-bit grey keeps its 16 bits, as stored; of 16-bit colour Pillow keeps the upper 8: right within 1/257.

    Args:
        path: A still image of one of `FORMATS`, whatever its extension.

    Returns:
        [H, W, 3] in [0, 1].

    Raises:
        BadImage: Not such a file, or damaged, animated, or of several pages; the message names file, reason and value.
    """
    _, pixels = _decode(Path(path), max_pixels=2 * (Image.MAX_IMAGE_PIXELS or MAX_PIXELS))
    rgb = np.divide(pixels, np.iinfo(pixels.dtype).max, dtype=np.float32)
    return rgb if rgb.ndim == 3 else np.repeat(rgb[..., None], 3, axis=2)


def read_header(path: Path, max_pixels: int = MAX_PIXELS) -> Examined:
    """An image's upright size and stored mode by its header alone, or why it cannot be used.

    Nothing is decoded, so damage behind the header is not seen, nor are two images of equal pixels.
    """
    try:
        with _faults_told(path, max_pixels), Image.open(path, formats=FORMATS) as image:
            _check_container(image, path, max_pixels)
            sides = image.size[::-1] if _orientation(image) in SIDEWAYS else image.size
            return Examined(*sides, image.mode)
    except BadImage as bad:
        return Examined(reason=bad.reason, value=bad.value)


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
        mode, pixels = _decode(Path(path), max_pixels)
    except BadImage as bad:
        return Examined(reason=bad.reason, value=bad.value)
    height, width = pixels.shape[:2]
    if short := size_fault(height, width, sizes):
        return Examined(reason=TOO_SMALL, value=short)
    digest = hashlib.sha256(f"{pixels.shape} {pixels.dtype}".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return Examined(width, height, mode, digest.hexdigest())


def _decode(path: Path, max_pixels: int) -> tuple[str, NDArray]:
    """Stored mode, and the upright pixels: uint8 [H, W, 3], or uint16 [H, W] for 16-bit grey."""
    with _faults_told(path, max_pixels):
        with Image.open(path, formats=FORMATS) as image:
            _check_container(image, path, max_pixels)
            if image.format == "PNG":
                image.verify()  # the checksums: decoding alone misses damage near the end
        with Image.open(path, formats=FORMATS) as image:
            image.load()
            return image.mode, _pixels(_upright(image), path)


@contextmanager
def _faults_told(path: Path, max_pixels: int) -> Iterator[None]:
    """Whatever keeps Pillow from reading the file, as a BadImage."""
    # VBench's AMT and pyiqa set it when they are imported, and half a file would pass.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    PngImagePlugin.MAX_TEXT_CHUNK = MAX_TEXT
    try:
        if not path.is_file():
            raise BadImage(str(path), "not_a_file", "absent, or a folder, pipe or device")
        if path.stat().st_size == 0:
            raise BadImage(str(path), "empty_file", "0 bytes")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, on large images and odd EXIF; both are dealt with here
            yield
    except BadImage:
        raise
    except MemoryError:  # says nothing of the image: no reason to lose it
        raise MemoryError(f"{path}: no memory to decode it; use fewer workers or a lower max_pixels") from None
    except Exception as error:  # decoders fail on damaged files in ways that Pillow does not list
        raise BadImage(str(path), *refusal_by_error(path, error, max_pixels)) from None


def _check_container(image: Image.Image, path: Path, max_pixels: int) -> None:
    """Refuse by the header alone: nothing is decoded."""
    width, height = image.size
    if min(width, height) < 1:
        raise BadImage(str(path), "corrupt", f"{height}x{width} (height x width) by the header")
    if width * height > max_pixels:
        claim = f"{height}x{width} (height x width) by the header; at most {max_pixels} pixels: save it smaller"
        raise BadImage(str(path), "too_many_pixels", claim)
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format == "TIFF":
        raise BadImage(str(path), "several_pages", f"{frames} pages; save the one that is meant as a file of its own")
    if frames > 1 and image.format != "MPO":  # a camera's second picture is a preview, not a motion
        raise BadImage(str(path), "animated", f"{frames} frames; save the one that is meant as a still image")


def _upright(image: Image.Image) -> Image.Image:
    orientation = _orientation(image)
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image


def _orientation(image: Image.Image) -> int:
    """By EXIF, as far as it was read: 1 is upright."""
    with suppress(Exception):  # damaged EXIF in sound pixels: as if there were none
        # Not the PNG reader's own, which decodes a picture without EXIF whole to look behind it.
        return Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    return 1


def _pixels(image: Image.Image, path: Path) -> NDArray:
    """uint8 [H, W, 3] in sRGB, or uint16 [H, W] for 16-bit grey."""
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)
    if image.mode in ("I", "F"):
        raise BadImage(str(path), "unknown_scale", f"mode {image.mode!r} has no largest value; save 8 or 16 bits")
    if image.mode in ("LAB", "HSV"):
        raise BadImage(str(path), "unsupported_colours", f"mode {image.mode!r}; save it as RGB")
    if image.has_transparency_data:
        image = _to_srgb(image.convert("RGBA"))
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    else:
        image = _to_srgb(image.convert("RGB") if image.mode in ("1", "P") else image)
    return np.asarray(image.convert("RGB"))


def _to_srgb(image: Image.Image) -> Image.Image:
    """Convert by the embedded colour profile; one that cannot be used is as none."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        name = ImageCms.getProfileDescription(profile)
        if "sRGB" in name and "linear" not in name.lower():
            return image
        mode = "RGBA" if image.mode == "RGBA" else "RGB"
        converted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode=mode)
        return image if converted is None else converted  # None where it was converted in place
    except (KeyError, OSError, TypeError, ValueError, ImageCms.PyCMSError):
        return image
