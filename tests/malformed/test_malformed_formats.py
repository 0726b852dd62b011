"""Every format that is read: whole files are read rightly, cut ones never pass, and each reason is the true one."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from vibe_pipeline.images import BadImage, load_rgb

TURNED = 6  # EXIF: shown turned by 90 degrees clockwise
ROWS, COLUMNS = np.mgrid[:48, :64]
SMOOTH = Image.fromarray(np.dstack([COLUMNS * 3, ROWS * 4, ROWS + COLUMNS]).astype(np.uint8))
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8))
FLOAT = np.asarray(SMOOTH, np.float32) / 255
GREY = np.asarray(SMOOTH.convert("L"))
GREY_FLOAT = np.dstack([GREY / np.float32(255)] * 3)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = TURNED
    return exif


# Content, pixels, tolerance.
WHOLE = {
    "avif": (encoded(SMOOTH, "AVIF", quality=95), FLOAT, 0.03),
    "jpeg 2000": (encoded(SMOOTH, "JPEG2000"), FLOAT, 0),
    "jpeg 2000, clear": (encoded(SMOOTH.convert("RGBA"), "JPEG2000"), FLOAT, 0),
    "jpeg 2000, 16 bit": (encoded(Image.fromarray(GREY.astype(np.uint16) * 257), "JPEG2000"), GREY_FLOAT, 1e-6),
    "tiff": (encoded(SMOOTH, "TIFF"), FLOAT, 0),
    "tiff, lzw": (encoded(SMOOTH, "TIFF", compression="tiff_lzw"), FLOAT, 0),
    "tiff, jpeg": (encoded(SMOOTH, "TIFF", compression="jpeg"), FLOAT, 0.03),
    "tiff, cmyk": (encoded(SMOOTH.convert("CMYK"), "TIFF"), FLOAT, 0.01),
    "tiff, grey and clear": (encoded(SMOOTH.convert("LA"), "TIFF"), GREY_FLOAT, 0),
    "tiff, 16 bit": (encoded(Image.fromarray(GREY.astype(np.uint16) * 257), "TIFF"), GREY_FLOAT, 1e-6),
    "bmp": (encoded(SMOOTH, "BMP"), FLOAT, 0),
    "ppm": (encoded(SMOOTH, "PPM"), FLOAT, 0),
    "pgm": (encoded(SMOOTH.convert("L"), "PPM"), GREY_FLOAT, 0),
    "qoi": (encoded(SMOOTH, "QOI"), FLOAT, 0),
    "turned tiff": (encoded(SMOOTH, "TIFF", exif=turned()), np.rot90(FLOAT, -1), 0),
    "turned avif": (encoded(SMOOTH, "AVIF", quality=95, exif=turned()), np.rot90(FLOAT, -1), 0.03),
    "turned webp": (encoded(SMOOTH, "WEBP", lossless=True, exif=turned()), np.rot90(FLOAT, -1), 0),
}


@pytest.mark.parametrize("case", WHOLE)
def test_a_whole_file_is_read_whatever_its_name(tmp_path: Path, case: str) -> None:
    content, pixels, tolerance = WHOLE[case]
    (tmp_path / "a.png").write_bytes(content)
    np.testing.assert_allclose(load_rgb(tmp_path / "a.png"), pixels, rtol=0, atol=tolerance)


CUT = {
    "avif": encoded(NOISE, "AVIF"),
    "jpeg 2000": encoded(NOISE, "JPEG2000"),
    "tiff": encoded(NOISE, "TIFF"),
    "tiff, lzw": encoded(NOISE, "TIFF", compression="tiff_lzw"),
    "bmp": encoded(NOISE, "BMP"),
    "ppm": encoded(NOISE, "PPM"),
    "qoi": encoded(NOISE, "QOI"),
    "webp": encoded(NOISE, "WEBP"),
    "jpeg": encoded(NOISE, "JPEG"),
    "png": encoded(NOISE, "PNG"),
    "gif": encoded(NOISE, "GIF"),
}


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6, 0.95])
@pytest.mark.parametrize("case", CUT)
def test_a_cut_file_never_passes(tmp_path: Path, case: str, share: float) -> None:
    (tmp_path / "a.png").write_bytes(CUT[case][: int(share * len(CUT[case]))])
    with pytest.raises(BadImage) as caught:
        load_rgb(tmp_path / "a.png")
    assert caught.value.reason == "corrupt", caught.value
    assert "\n" not in caught.value.value and len(caught.value.value) < 300


def container(*brands: bytes) -> bytes:
    return struct.pack(">I", 8 + 4 * len(brands)) + b"ftyp" + b"".join(brands) + bytes(100)


REFUSED = {
    "heic": (container(b"heic", bytes(4), b"mif1", b"heic"), "unsupported_format", "HEIF"),
    "heif": (container(b"mif1", bytes(4), b"mif1", b"heic"), "unsupported_format", "HEIF"),
    "avif without content": (container(b"avif", bytes(4), b"mif1"), "corrupt", "AVIF"),
    "video": (container(b"isom", bytes(4), b"mp42"), "video", "isom"),
    "jpeg xl": (b"\xff\x0a" + bytes(50), "unsupported_format", "JPEG XL"),
    "photoshop": (b"8BPS" + bytes(50), "unsupported_format", "Photoshop"),
    "targa": (encoded(SMOOTH, "TGA"), "not_an_image", "none of PNG"),
    "pages": (encoded(SMOOTH, "TIFF", save_all=True, append_images=[NOISE]), "several_pages", "2 pages"),
    "moving avif": (encoded(SMOOTH, "AVIF", save_all=True, append_images=[NOISE]), "animated", "2 frames"),
    "lab": (encoded(SMOOTH.convert("LAB"), "TIFF"), "unsupported_colours", "save it as RGB"),
    "floats": (encoded(SMOOTH.convert("F"), "TIFF"), "unknown_scale", "save 8 or 16 bits"),
    "bomb": (b"P6\n20000 20000\n255\n", "too_many_pixels", "400000000 pixels"),
    "bomb of Pillow's": (b"P6\n10000 10000\n255\n", "too_many_pixels", "at most"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_each_reason_is_the_true_one(tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content, reason, named = REFUSED[case]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40_000_000)
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(BadImage) as caught:
        load_rgb(tmp_path / "a.jpg")
    assert caught.value.reason == reason and named in caught.value.value, caught.value
    assert "DOS" not in caught.value.value


def texts(size: int, kind: str) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    add = info.add_itxt if kind == "iTXt" else info.add_text
    add("workflow", "x" * size, zip=kind != "tEXt")
    return info


def with_profile(size: int) -> bytes:
    """A PNG whose colour profile, of sRGB, is filled up to a size."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = b"icc\0\0" + zlib.compress(profile + bytes(size))
    chunk = struct.pack(">I", len(data)) + b"iCCP" + data + struct.pack(">I", zlib.crc32(b"iCCP" + data))
    plain = encoded(SMOOTH, "PNG")
    return plain[:33] + chunk + plain[33:]  # after the header


MIB = 1 << 20
SOUND = {
    "text": lambda: encoded(SMOOTH, "PNG", pnginfo=texts(3 * MIB, "tEXt")),
    "packed text": lambda: encoded(SMOOTH, "PNG", pnginfo=texts(3 * MIB, "zTXt")),
    "international text": lambda: encoded(SMOOTH, "PNG", pnginfo=texts(9 * MIB, "iTXt")),
    "profile": lambda: with_profile(3 * MIB),
}


@pytest.mark.parametrize("case", SOUND)
def test_much_text_or_a_large_profile_does_not_spoil_a_picture(tmp_path: Path, case: str) -> None:
    (tmp_path / "a.png").write_bytes(SOUND[case]())
    np.testing.assert_allclose(load_rgb(tmp_path / "a.png"), FLOAT, rtol=0, atol=1 / 255)


@pytest.mark.parametrize(("size", "kind"), [(17 * MIB, "zTXt"), (65 * MIB, "tEXt")])
def test_text_without_bounds_is_refused_as_what_it_is(tmp_path: Path, size: int, kind: str) -> None:
    (tmp_path / "a.png").write_bytes(encoded(SMOOTH, "PNG", pnginfo=texts(size, kind)))
    with pytest.raises(BadImage, match=r"too_much_text: more than 16 MiB in one .* save it without metadata"):
        load_rgb(tmp_path / "a.png")
