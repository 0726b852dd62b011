"""The check: every kind of unusable image is named with its reason; every usable kind is read rightly."""

import io
import os
import pickle
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageCms, ImageFile

from vibe_pipeline.images import BadImage, check_images, find_images, load_rgb, require_usable
from vibe_pipeline.images.check import _map_images

Folder = Callable[..., Path]
LIMITS = {"sizes": [(32, 40)], "max_caption_words": 5}


def noise(seed: int = 0, height: int = 48, width: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encode(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def png(seed: int = 0, height: int = 48, width: int = 64) -> bytes:
    return encode(Image.fromarray(noise(seed, height, width)))


def raw_png(rows: np.ndarray, depth: int, colour: int, size: tuple[int, int] | None = None) -> bytes:
    """A PNG written by hand: Pillow writes neither 16-bit colour nor headers that lie."""
    height, width = size or rows.shape[:2]

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = b"".join(b"\0" + row.astype(">u2" if depth == 16 else "u1").tobytes() for row in rows)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


PICTURE, OTHER = Image.fromarray(noise(0)), Image.fromarray(noise(1))
JPEG = encode(PICTURE, "JPEG")
TURN = Image.Exif()
TURN[0x0112] = 6  # the camera was turned: show it turned by 90 degrees clockwise


def check(root: Path, **more: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    return check_images(find_images(root), **LIMITS, **more)


def damaged(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]


BAD_FILES = {
    "empty_file": ("a.png", b"", "empty_file", "0 bytes"),
    "text": ("a.png", b"hello, world", "not_an_image", "hello"),
    "header cut": ("a.png", png()[:20], "corrupt", "Error"),
    "signature alone": ("a.png", png()[:8], "corrupt", "like PNG"),
    "photoshop": ("a.png", b"8BPS" + bytes(40), "unsupported_format", "Photoshop"),
    "png half": ("a.png", png()[:3000], "corrupt", "runcated"),
    "png without end": ("a.png", png()[:-12], "corrupt", "runcated"),
    "png damaged": ("a.png", damaged(png(), 3000), "corrupt", "checksum"),
    "png damaged at the end": ("a.png", damaged(png(), len(png()) - 14), "corrupt", "checksum"),
    "png without pixels": ("a.png", raw_png(noise()[:0], 8, 2, (48, 64)), "corrupt", "Error"),
    "jpeg half": ("a.jpg", JPEG[: len(JPEG) // 2], "corrupt", "truncated"),
    "jpeg header": ("a.jpg", JPEG[:100], "corrupt", "Error"),
    "webp half": ("a.webp", encode(PICTURE, "WEBP")[:500], "corrupt", "decoder"),
    "bomb": ("a.png", raw_png(noise(), 8, 2, (12_000, 12_000)), "too_many_pixels", "12000x12000"),
    "bomb beyond Pillow": ("a.png", raw_png(noise(), 8, 2, (200_000, 200_000)), "too_many_pixels", "40000000000"),
    "low": ("a.png", png(0, 31, 64), "too_small", "31x64"),
    "narrow": ("a.png", png(0, 48, 39), "too_small", "48x39"),
    "low once upright": ("a.jpg", encode(Image.fromarray(noise(0, 64, 31)), "JPEG", exif=TURN), "too_small", "31x64"),
    "animated png": ("a.png", encode(PICTURE, save_all=True, append_images=[OTHER]), "animated", "2 frames"),
    "animated webp": ("a.webp", encode(PICTURE, "WEBP", save_all=True, append_images=[OTHER]), "animated", "2 frames"),
    "animated gif": ("a.png", encode(PICTURE, "GIF", save_all=True, append_images=[OTHER]), "animated", "2 frames"),
}


@pytest.mark.parametrize(("name", "content", "reason", "value"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_file_is_quarantined(
    folder: Folder, name: str, content: bytes, reason: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as importing VBench's AMT leaves it
    usable, quarantine = check(folder({name: content, "a.txt": "a ball"}))
    assert usable.empty and quarantine.columns.tolist() == ["file_name", "reason", "value"]
    (row,) = quarantine.itertuples(index=False)
    assert (row.file_name, row.reason) == (name, reason) and value in row.value
    with pytest.raises(ValueError, match="0 of 1 images are usable") as caught:
        require_usable(usable, quarantine, 0.0)
    message = str(caught.value)
    assert f"1 {reason} ({name}: " in message and value in message and "\n" not in message


BAD_CAPTIONS = {
    "none": ({}, "caption_missing", "no text file"),
    "empty": ({"a.txt": " \n"}, "caption_empty", "a.txt"),
    "no word": ({"a.txt": "...\u200b"}, "caption_empty", "..."),
    "null": ({"metadata.jsonl": '{"file_name": "a.png", "text": null}'}, "caption_empty", "metadata.jsonl"),
    "long": ({"a.txt": "one two three four five six"}, "caption_too_long", "6 words, at most 5"),
}


@pytest.mark.parametrize(("files", "reason", "value"), BAD_CAPTIONS.values(), ids=BAD_CAPTIONS)
def test_bad_caption_is_quarantined(folder: Folder, files: dict, reason: str, value: str) -> None:
    _, quarantine = check(folder({"a.png": png(), **files}))
    assert quarantine.values.tolist()[0][:2] == ["a.png", reason] and value in quarantine.loc[0, "value"]


def grey16() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 65536, (48, 64), dtype=np.uint16)


def rgba(alpha: int) -> Image.Image:
    return Image.fromarray(np.dstack([noise(), np.full((48, 64), alpha, np.uint8)]))


FLOAT = noise().astype(np.float32) / 255
COLOUR16 = np.random.default_rng(0).integers(0, 65536, (48, 64, 3), dtype=np.uint16)
GREY16 = np.dstack([grey16() / 65535] * 3)
PALETTE = PICTURE.quantize(16)
ALPHA = np.asarray(PALETTE)[..., None] * 17 / 255  # entry k of 16 is k * 17 / 255 opaque
ON_WHITE = np.asarray(PALETTE.convert("RGB")) / 255 * ALPHA + 1 - ALPHA
GREY = np.asarray(PICTURE.convert("L"), np.float32) / 255
READ_RIGHTLY = {
    "png": (png(), FLOAT, 0),
    "webp": (encode(PICTURE, "WEBP", lossless=True), FLOAT, 0),
    "still gif": (encode(PICTURE.quantize(8), "GIF"), None, 0),
    "grey": (encode(PICTURE.convert("L")), np.dstack([GREY] * 3), 0),
    "black and white": (encode(PICTURE.convert("1")), None, 0),
    "grey 16": (encode(Image.fromarray(grey16())), GREY16, 1e-6),
    "colour 16": (raw_png(COLOUR16, 16, 2), COLOUR16 / 65535, 1 / 257),
    "colour 16, dark": (raw_png(noise().astype(np.uint16), 16, 2), noise() / 65535, 1 / 257),
    "colour 16, clear": (raw_png(np.dstack([COLOUR16, 0 * grey16()]), 16, 6), np.ones((48, 64, 3)), 0),
    "palette": (encode(PALETTE), np.asarray(PALETTE.convert("RGB")) / 255, 0),
    "clear": (encode(rgba(0)), np.ones((48, 64, 3)), 0),
    "opaque": (encode(rgba(255)), FLOAT, 0),
    "half clear": (encode(rgba(128)), (FLOAT * 128 + 127) / 255, 1 / 255),
    "half clear grey": (encode(rgba(128).convert("LA")), (np.dstack([GREY] * 3) * 128 + 127) / 255, 1 / 255),
    "clear colours of palette": (encode(PALETTE, transparency=bytes(range(0, 256, 17))), ON_WHITE, 1 / 255),
    "turned png": (encode(PICTURE, exif=TURN), np.rot90(FLOAT, -1), 0),
    "turned grey 16": (encode(Image.fromarray(grey16()), exif=TURN), np.rot90(GREY16, -1), 1e-6),
    "broken profile": (encode(PICTURE, icc_profile=b"garbage"), FLOAT, 0),
    "broken EXIF": (encode(PICTURE, exif=b"Exif\0\0garbage"), FLOAT, 0),
}


@pytest.mark.parametrize(("content", "expected", "tolerance"), READ_RIGHTLY.values(), ids=READ_RIGHTLY)
def test_read_rightly_whatever_the_extension(
    folder: Folder, content: bytes, expected: np.ndarray | None, tolerance: float
) -> None:
    usable, quarantine = check(folder({"a.png": content, "a.txt": "a ball"}))
    assert quarantine.empty, quarantine.to_dict("records")
    pixels = load_rgb(Path(usable.loc[0, "path"]))
    assert pixels.dtype == np.float32 and pixels.min() >= 0 and pixels.max() <= 1
    assert pixels.shape == (usable.loc[0, "height"], usable.loc[0, "width"], 3)
    if expected is not None:
        np.testing.assert_allclose(pixels, expected, rtol=0, atol=tolerance + 1e-7)


SMOOTH = Image.fromarray(np.dstack([np.tile(np.arange(64, dtype=np.uint8) * 3, (48, 1)) + k for k in (0, 20, 60)]))
JPEGS = {
    "jpeg": ({}, SMOOTH, (48, 64)),
    "turned": ({"exif": TURN}, SMOOTH, (64, 48)),
    "cmyk": ({}, SMOOTH.convert("CMYK"), (48, 64)),
    "two pictures of a camera": ({"save_all": True, "append_images": [OTHER]}, SMOOTH, (48, 64)),
}


@pytest.mark.parametrize("case", JPEGS)
def test_jpegs(folder: Folder, case: str) -> None:
    options, picture, shape = JPEGS[case]
    kind = "MPO" if "save_all" in options else "JPEG"
    root = folder({"a.jpg": encode(picture, kind, quality=98, **options), "a.txt": "a ball"})
    row = check(root)[0].loc[0]
    assert (row["height"], row["width"]) == shape and row["mode"] == picture.mode
    expected = np.asarray(SMOOTH, np.float32) / 255
    expected = np.rot90(expected, -1) if "exif" in options else expected
    np.testing.assert_allclose(load_rgb(root / "a.jpg"), expected, atol=0.03)


def test_colour_profile_is_converted(folder: Folder) -> None:
    plain = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # sRGB with red and green exchanged, under another name.
    other = plain.replace(b"rXYZ", b"####").replace(b"gXYZ", b"rXYZ").replace(b"####", b"gXYZ")
    other = other.replace("sRGB".encode("utf-16-be"), "else".encode("utf-16-be"))
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()  # does not fit RGB pixels
    profiles = {"plain": plain, "other": other, "lab": lab}
    root = folder({f"{name}.png": encode(PICTURE, icc_profile=profile) for name, profile in profiles.items()})
    np.testing.assert_array_equal(load_rgb(root / "plain.png"), FLOAT)
    np.testing.assert_allclose(load_rgb(root / "other.png"), FLOAT[..., [1, 0, 2]], atol=3 / 255)
    np.testing.assert_array_equal(load_rgb(root / "lab.png"), FLOAT)


def test_duplicates_keep_the_first_usable_by_name(folder: Folder) -> None:
    same = {"b.png": png(), "c.webp": encode(PICTURE, "WEBP", lossless=True), "d.png": encode(rgba(255))}
    captions = {f"{name}.txt": f"ball {name}" for name in "bcde"}
    usable, quarantine = check(folder({"a.png": png(), **same, "e.png": png(5), **captions}))
    assert usable["file_name"].tolist() == ["b.png", "e.png"]
    assert list(quarantine.itertuples(index=False, name=None)) == [
        ("a.png", "caption_missing", "no text file beside it, and no metadata lists it"),
        ("c.webp", "duplicate", "same pixels as b.png"),
        ("d.png", "duplicate", "same pixels as b.png"),
    ]


def many(count: int = 20) -> dict[str, bytes | str]:
    pictures = {f"{k:02}.png": png(k % 15) for k in range(count)} | {"03.png": b"", "07.png": png(7)[:2000]}
    return pictures | {f"{k:02}.txt": f"ball {k}" for k in range(count)} | {"11.txt": ""}


def test_workers_and_order_change_nothing(folder: Folder) -> None:
    found = find_images(folder(many()))
    one = check_images(found, **LIMITS, workers=1)
    two = check_images(found.sample(frac=1, random_state=0), **LIMITS, workers=2)
    for left, right in zip(one, two, strict=True):
        pd.testing.assert_frame_equal(left, right)
    assert one[0].columns.tolist() == [*found.columns[:4], "width", "height", "mode", "sha256"]
    # Of 20, the pictures 15 to 19 repeat 0 to 4; 3 is empty, so 18 stays.
    reasons = {"duplicate": 4, "empty_file": 1, "corrupt": 1, "caption_empty": 1}
    assert one[1]["reason"].value_counts().to_dict() == reasons
    assert one[0]["sha256"].str.fullmatch("[0-9a-f]{64}").all() and one[0]["file_name"].iloc[-1] == "18.png"


def test_a_worker_that_dies_is_an_error_not_a_hang() -> None:
    with pytest.raises(RuntimeError, match="a process died while checking 9 or one of the 16 images after it"):
        _map_images(os._exit, [9] * 16, workers=2)  # every "image" ends the process that takes it


def test_memory_does_not_grow_with_the_number_of_images(folder: Folder) -> None:
    root = folder({f"{k:02}.png": png(k, 256, 256) for k in range(24)})
    found = find_images(root).assign(caption="a ball")
    peaks = []
    for count in (4, 24):
        tracemalloc.start()
        check_images(found.head(count), **LIMITS)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 256 * 256 * 3  # less than one image more


def test_not_a_regular_file(folder: Folder) -> None:
    root = folder({"pipe.txt": "x", "gone.png": png(), "gone.txt": "x"})
    os.mkfifo(root / "pipe.png")
    found = find_images(root)
    (root / "gone.png").unlink()
    _, quarantine = check_images(found, **LIMITS)
    assert quarantine.set_index("file_name")["reason"].to_dict() == {"pipe.png": "not_a_file", "gone.png": "not_a_file"}


def test_refusals_of_the_search_are_kept_and_frames_survive_csv(folder: Folder) -> None:
    root = folder({"a.png": png(), "a.txt": "a ball", "b.png": png(2), "metadata.csv": "file_name,text\n../x.png,x\n"})
    find_images(root).to_csv(root / "found.csv", index=False)
    usable, quarantine = check_images(pd.read_csv(root / "found.csv"), **LIMITS)
    assert usable["file_name"].tolist() == ["a.png"]
    assert quarantine["reason"].tolist() == ["outside_folder", "caption_missing"]


def test_nothing_to_check_keeps_the_columns(folder: Folder) -> None:
    found = find_images(folder({"a.png": png(), "a.txt": "a ball"}))
    usable, quarantine = check_images(found.head(0), **LIMITS, workers=4)
    full, _ = check_images(found, **LIMITS)
    assert len(usable) == len(quarantine) == 0 and (usable.dtypes == full.dtypes).all()
    with pytest.raises(ValueError, match="0 of 0 images are usable"):
        require_usable(usable, quarantine, 0.5)


@pytest.mark.parametrize("name", ["sizes", "max_caption_words", "workers", "max_pixels"])
def test_bad_limits_and_columns(folder: Folder, name: str) -> None:
    found = find_images(folder({"a.png": png()}))
    with pytest.raises(ValueError, match=f"{name} is 0; it must be at least 1"):
        check_images(found, **{**LIMITS, name: [(32, 0)] if name == "sizes" else 0})
    with pytest.raises(ValueError, match=r"lack the columns \['path', 'caption', 'caption_source'\]"):
        check_images(pd.DataFrame({"file_name": ["a.png"]}), **LIMITS)


@pytest.mark.parametrize(("share", "enough"), [(0.5, True), (0.51, False), (1.0, False), (0.0, True)])
def test_require_usable_counts_reasons(share: float, enough: bool) -> None:
    usable = pd.DataFrame({"file_name": ["a", "b", "c"]})
    rows = [("d", "too_small", "8x8"), ("e", "corrupt", "cut"), ("f", "too_small", "9x9")]
    quarantine = pd.DataFrame(rows, columns=["file_name", "reason", "value"])
    if enough:
        require_usable(usable, quarantine, share)
        return
    with pytest.raises(ValueError, match=r"3 of 6 .* asks for .*%: 2 too_small \(d: 8x8\), 1 corrupt \(e: cut\)"):
        require_usable(usable, quarantine, share)


def test_load_rgb_names_the_file_and_its_error_travels_between_processes(folder: Folder) -> None:
    path = folder({"a.png": b"hello"}) / "a.png"
    with pytest.raises(BadImage, match=r"a\.png: not_an_image: none of PNG") as caught:
        load_rgb(path)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
