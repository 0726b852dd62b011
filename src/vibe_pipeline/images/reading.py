"""Reading an image as the training sees it: by its header alone, or decoded, upright and in sRGB."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, ImageFile, PngImagePlugin

from vibe_pipeline.images.formats import FORMATS, MAX_TEXT, refusal_by_error

MAX_PIXELS = 80_000_000  # 12000 x 6666: above any camera, and 240 MB decoded
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
    _, pixels = decode(Path(path), max_pixels=2 * (Image.MAX_IMAGE_PIXELS or MAX_PIXELS))
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


def decode(path: Path, max_pixels: int) -> tuple[str, NDArray]:
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
