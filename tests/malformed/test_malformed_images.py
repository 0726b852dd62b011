"""Images and captions: what spoils one image puts it in quarantine with its reason; the good one beside it stays."""

import io
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vibe_pipeline.diffusion.models import find_model
from vibe_pipeline.images import check_images, find_images
from vibe_pipeline.images.captions import check_captions

SIZES, WORDS = [(32, 40)], 20
SVG = '<?xml version="1.0"?><!DOCTYPE s [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg><text>&x;</text></svg>'


def picture(seed: int = 1, height: int = 48, width: int = 64) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def by_hand(height: int, width: int, depth: int = 8, colour: int = 2, *extra: bytes, data: bytes = b"") -> bytes:
    """A PNG whose header says what it is told to."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(data))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(extra) + body + chunk(b"IEND", b"")


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.png", b"hello")
    return buffer.getvalue()


PNG, JPEG = encoded(picture(), "PNG"), encoded(picture(), "JPEG")
WEBP, GIF = encoded(picture(), "WEBP"), encoded(picture().quantize(8), "GIF")
TEXT_BOMB = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 26)))
BROKEN_SUM = PNG[:29] + bytes([PNG[29] ^ 1]) + PNG[30:]  # of the header's own chunk
# File name, content, reason, and what the value names beside it.
IMAGES: dict[str, tuple[str, bytes, str, str]] = {
    "0 bytes": ("a.png", b"", "empty_file", "0 bytes"),
    "0 bytes jpeg": ("a.jpeg", b"", "empty_file", "0 bytes"),
    "zeros": ("a.webp", bytes(5000), "not_an_image", "x00"),
    "text": ("a.png", b"a red ball on a table", "not_an_image", "a red ball"),
    "page about an error": ("a.jpg", b"<!DOCTYPE html><p>404", "not_an_image", "<!DOCTYPE"),
    "svg that reads a file": ("a.png", SVG.encode(), "not_an_image", "<?xml"),
    "pdf": ("a.png", b"%PDF-1.7\n", "not_an_image", "%PDF"),
    "tiff cut": ("a.png", encoded(picture(), "TIFF")[:4000], "corrupt", "runcated"),
    "postscript": ("a.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n(/etc/passwd) run\n", "not_an_image", "%!PS"),
    "zip": ("a.png", zipped(), "not_an_image", "PK"),
    "program": ("a.webp", b"\x7fELF" + bytes(100), "not_an_image", "ELF"),
    "Git LFS pointer": ("a.png", b"version https://git-lfs.github.com/spec/v1\n", "not_an_image", "version http"),
    "png cut in the header": ("a.png", PNG[:24], "corrupt", "Error"),
    "png cut near the end": ("a.png", PNG[:-30], "corrupt", "runcated"),
    "png with a wrong sum": ("a.png", BROKEN_SUM, "corrupt", "like PNG"),
    "png of no pixels": ("a.png", by_hand(0, 64), "corrupt", "like PNG"),
    "png of 3 bits": ("a.png", by_hand(48, 64, 3), "corrupt", "like PNG"),
    "png of unknown colour": ("a.png", by_hand(48, 64, 8, 5), "corrupt", "like PNG"),
    "png without data": ("a.png", by_hand(48, 64), "corrupt", "Error"),
    "png without palette": ("a.png", by_hand(48, 64, 8, 3, data=bytes(65 * 48)), "corrupt", "Error"),
    "text bomb": ("a.png", by_hand(48, 64, 8, 2, TEXT_BOMB, data=bytes(193 * 48)), "too_much_text", "16 MiB"),
    "bomb": ("a.png", by_hand(60_000, 60_000), "too_many_pixels", "60000"),
    "bomb in one row": ("a.png", by_hand(1, 2**31 - 1), "too_many_pixels", "2147483647"),
    "jpeg cut": ("a.jpg", JPEG[:700], "corrupt", "runcated"),
    "jpeg of a mark": ("a.jpg", JPEG[:4], "corrupt", "like JPEG"),
    "webp cut": ("a.webp", WEBP[: len(WEBP) // 2], "corrupt", "Error"),
    "gif cut": ("a.png", GIF[: len(GIF) // 2], "corrupt", "Error"),
    "a pixel": ("a.png", encoded(picture(2, 1, 1), "PNG"), "too_small", "1x1"),
    "low grey": ("a.png", encoded(picture(2, 31, 64).convert("L"), "PNG"), "too_small", "31x64"),
    "low black and white": ("a.png", encoded(picture(2, 48, 39).convert("1"), "PNG"), "too_small", "48x39"),
    "CMYK cut": ("a.jpg", encoded(picture().convert("CMYK"), "JPEG")[:-900], "corrupt", "runcated"),
    "moving": ("a.png", encoded(picture(), "PNG", save_all=True, append_images=[picture(2)]), "animated", "2 frames"),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with one image that is as it should be."""
    folder = tmp_path / "images"
    folder.mkdir()
    picture(0).save(folder / "good.png")
    (folder / "good.txt").write_text("a good picture")
    return folder


@pytest.fixture
def quarantined(root: Path, marker: Path, unchanged: Callable) -> Callable[..., str]:
    """Check the folder: the good image is usable, the other is in quarantine for `reason`; says with which value."""

    def check(name: str, reason: str) -> str:
        usable, quarantine = unchanged(lambda: check_images(find_images(root), SIZES, WORDS))
        assert usable["file_name"].tolist() == ["good.png"]
        (row,) = quarantine.itertuples(index=False)
        assert (row.file_name, row.reason) == (name, reason), row.value
        assert row.value and "\n" not in row.value and len(row.value) < 400
        assert not marker.exists()
        return row.value

    return check


@pytest.mark.parametrize("case", IMAGES)
def test_an_image(root: Path, quarantined: Callable, case: str) -> None:
    name, content, reason, named = IMAGES[case]
    (root / name).write_bytes(content)
    (root / name).with_suffix(".txt").write_text("a ball")
    assert named in quarantined(name, reason)


def test_a_pickle_is_no_image(root: Path, quarantined: Callable, bomb: object) -> None:
    (root / "a.png").write_bytes(pickle.dumps(bomb))
    (root / "a.txt").write_text("a ball")
    assert "x80" in quarantined("a.png", "not_an_image")


def test_a_pipe_is_not_waited_for(root: Path, quarantined: Callable) -> None:
    os.mkfifo(root / "a.png")
    quarantined("a.png", "not_a_file")


def test_a_link_to_nowhere(root: Path, quarantined: Callable) -> None:
    (root / "a.png").symlink_to("gone.png")
    quarantined("a.png", "missing_file")


# Content of the text file (None: no file), reason, what the value names.
CAPTIONS: dict[str, tuple[bytes | None, str, str]] = {
    "none": (None, "caption_missing", "no text file"),
    "0 bytes": (b"", "caption_empty", "a.txt"),
    "blanks": (b" \n\t \xc2\xa0", "caption_empty", "a.txt"),
    "mark of order alone": (b"\xef\xbb\xbf", "caption_empty", "a.txt"),
    "no letter": (b"?!...", "caption_empty", "?!..."),
    "NUL bytes": (bytes(20), "caption_not_text", "x00"),
    "latin-1": (b"a caf\xe9", "caption_not_utf8", "0xe9"),
    "UTF-16": ("a ball".encode("utf-16"), "caption_not_utf8", "0xff"),
    "half a surrogate": (b"a \xed\xa0\x80 ball", "caption_not_utf8", "0xed"),
    "an image": (PNG, "caption_not_utf8", "0x89"),
    "long": (b"word " * 21, "caption_too_long", "21 words"),
    "huge": (b"word " * 20_000, "caption_too_long", "65536"),
}


@pytest.mark.parametrize("case", CAPTIONS)
def test_a_caption(root: Path, quarantined: Callable, case: str) -> None:
    content, reason, named = CAPTIONS[case]
    (root / "a.png").write_bytes(PNG)
    if content is not None:
        (root / "a.txt").write_bytes(content)
    assert named in quarantined("a.png", reason)


def test_a_caption_with_a_nul_in_it(root: Path, quarantined: Callable) -> None:
    (root / "a.png").write_bytes(PNG)
    (root / "a.txt").write_bytes(b"a red\0ball")
    assert "x00" in quarantined("a.png", "caption_not_text")


def test_a_caption_of_too_many_tokens(root: Path, wan21, unchanged: Callable) -> None:
    (root / "a.png").write_bytes(PNG)
    (root / "a.txt").write_text("a red circle moving left over woven navy")
    model = find_model(str(wan21.path))
    found = check_images(find_images(root), SIZES, WORDS)
    usable, quarantine = unchanged(lambda: check_captions(*found, model, 6))
    assert usable["file_name"].tolist() == ["good.png"]
    (row,) = quarantine.itertuples(index=False)
    assert (row.file_name, row.reason) == ("a.png", "caption_too_long") and "text_length is 6" in row.value
