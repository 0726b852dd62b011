"""Which files are images: those that Pillow decodes, told by content, and those that it does not, told by name.

Only formats with a clear signature are decoded, and none whose decoder starts another program (PostScript) or draws.
"""

import logging
import re
from pathlib import Path

from PIL import Image, PngImagePlugin, UnidentifiedImageError, features

from vibe_pipeline.io.errors import one_line

log = logging.getLogger(__name__)

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "AVIF", "JPEG2000", "TIFF", "BMP", "PPM", "QOI")  # JPEG covers cameras' MPO
MAX_TEXT = 1 << 24  # bytes of one PNG text or profile once unpacked; Pillow's own 1 MiB keeps sound pictures out
_KNOWN = {suffix: name for suffix, name in Image.registered_extensions().items() if name != "PDF"}
SUFFIXES = tuple(sorted(suffix for suffix, name in _KNOWN.items() if name in (*FORMATS, "MPO")))
VIDEOS = (
    *(".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv"),
    *(".webm", ".wmv", ".y4m"),
)
RAW = (
    *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mos", ".mrw", ".nef"),
    *(".nrw", ".orf", ".pef", ".raf", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"),
)
HEIF = (".heic", ".heif", ".hif")
DATA = (".bufr", ".grib", ".h5", ".hdf")  # Pillow knows their names, but people keep no pictures in them
DRAWN = (".ai", ".exr", ".hdr", ".jxl", ".kra", ".psb", ".svg", ".svgz", ".xcf")  # whose names Pillow does not know
UNREAD = frozenset((*_KNOWN, *DRAWN)).difference(SUFFIXES, VIDEOS, DATA)
SIGNATURES = {  # of those that are read, where a damaged header keeps Pillow from telling
    **{b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"RIFF": "WebP", b"GIF8": "GIF", b"II*\0": "TIFF"},
    **{b"MM\0*": "TIFF", b"qoif": "QOI", b"\0\0\0\x0cjP": "JPEG 2000"},
}
ASKED = "PNG, JPEG, WebP, AVIF or TIFF"


def refusal_by_name(name: str) -> tuple[str, str] | None:
    """Why a file of this name is not decoded: a reason, and its way out.

    Returns:
        None where it may be decoded, and where the name is not known as that of an image.
    """
    suffix = Path(name).suffix.lower()
    if suffix in HEIF:
        return "unsupported_format", f"{suffix}: HEIF is not read; convert it to {ASKED}, for example with heif-convert"
    if suffix in RAW:  # many are TIFF inside, of which Pillow would read the thumbnail
        return "unsupported_format", f"{suffix}: a camera's raw file is not read; develop it to {ASKED}"
    if suffix in VIDEOS:
        return "video", f"{suffix}: training takes still images; save frames of it as {ASKED}"
    if suffix in UNREAD:
        return "unsupported_format", f"{suffix} is not read; save it as {ASKED}"
    return None


def refusal_by_content(path: Path) -> tuple[str, str]:
    """Why Pillow found no format: a format that is known but not read, or no image at all."""
    with path.open("rb") as file:
        start = file.read(32)
    if start[4:8] == b"ftyp":  # one family of containers, told apart by the brands that follow
        return _refusal_by_brands(start[8:])
    if start.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        return "unsupported_format", f"by content JPEG XL, which is not read; save it as {ASKED}"
    if start.startswith(b"8BPS"):
        return "unsupported_format", f"by content Photoshop, which is not read; save it as {ASKED}"
    for signature, name in SIGNATURES.items():
        if start.startswith(signature):
            return "corrupt", f"starts like {name}, but its header is damaged or cut: {start[:12]!r}"
    return "not_an_image", f"none of {', '.join(FORMATS)}; starts with {start[:12]!r}"


def _refusal_by_brands(brands: bytes) -> tuple[str, str]:
    if b"avif" in brands or b"avis" in brands:
        if features.check("avif"):
            return "corrupt", "an AVIF whose header is damaged or cut"
        return "unsupported_format", f"an AVIF, which this build of Pillow does not read; save it as {ASKED}"
    if any(brand in brands for brand in (b"heic", b"heix", b"hevc", b"hevx", b"mif1", b"msf1")):
        return "unsupported_format", f"by content HEIF, which is not read; convert it to {ASKED}"
    return "video", f"by content a video ({brands[:4]!r}); save frames of it as {ASKED}"


def refusal_by_error(path: Path, error: Exception, max_pixels: int) -> tuple[str, str]:
    """The reason that an error of the decoder stands for, and what was seen.

    Args:
        path: The file whose first bytes are read.
        error: What Pillow or the file system raised.
        max_pixels: The limit that is named where a header claims more.
    """
    if isinstance(error, UnidentifiedImageError):
        return refusal_by_content(path)
    if isinstance(error, Image.DecompressionBombError):
        pixels = re.search(r"\d+", str(error))
        return "too_many_pixels", f"{pixels and pixels[0]} pixels by the header; at most {max_pixels}: save it smaller"
    if isinstance(error, OSError) and error.errno:  # of the file system; Pillow's own have no number
        return "unreadable", f"{error.strerror}"
    if "MAX_TEXT" in str(error) or "text chunks" in str(error):
        limits = f"{MAX_TEXT >> 20} MiB in one text or profile, or {PngImagePlugin.MAX_TEXT_MEMORY >> 20} MiB in all"
        return "too_much_text", f"more than {limits}; save it without metadata ({one_line(error, 80)})"
    return "corrupt", one_line(f"{type(error).__name__}: {error}")


def is_image_by_content(path: Path) -> bool:
    """Whether a file of any name begins like an image that is read; nothing is decoded."""
    if not path.is_file():  # a pipe would be waited for
        return False
    try:
        with Image.open(path, formats=FORMATS):
            return True
    except OSError:  # which Pillow raises where it finds no format, too
        return False
    except Exception as error:  # begins like an image but is damaged: the check says how
        log.debug("%s: %s", path, error)
        return True
