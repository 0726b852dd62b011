"""The look at a folder's headers: it says of every image what the run's check will say, or less, and never more."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from tests.images.test_check import TURN, encode, noise, raw_png
from vibe_pipeline.experiment.data import DataParams
from vibe_pipeline.images import check_images, find_images
from vibe_pipeline.images.precheck import precheck, precheck_images, read_headers, share_filling
from vibe_pipeline.images.reading import read_header

Folder = Callable[..., Path]
SIZES = [(32, 64), (40, 48), (64, 32)]


def plain(height: int, width: int, kind: str = "PNG", **options: object) -> bytes:
    return encode(Image.new("RGB", (width, height)), kind, **options)


def params(folder: Path, **changes: object) -> DataParams:
    low, high = {"height": 16, "width": 24}, {"height": 40, "width": 48}
    return DataParams(path=folder, low=low, high=high, **changes)


def test_it_says_what_the_runs_check_says(folder: Folder) -> None:
    turned = plain(32, 64, "JPEG", exif=TURN)  # upright 64x32: fills the bucket of that size, and none of the others
    pictures = {
        "good.png": plain(40, 48), "low.png": plain(39, 48), "turned.jpg": turned, "long.png": plain(31, 90),
        "cut.png": plain(40, 48)[:20], "nothing.png": b"", "moving.gif": plain(40, 48, "GIF", save_all=True,
        append_images=[Image.new("RGB", (48, 40), "red")]), "bare.png": plain(41, 48),
    }  # fmt: skip
    captions = {f"{Path(name).stem}.txt": name for name in pictures if name != "bare.png"}
    root = folder(pictures | captions | {"live.heic": b"x", "alone.txt": "of no image"})
    found = find_images(root)
    seen = precheck(read_headers(found), SIZES, params(root))
    usable, quarantine = check_images(found, SIZES, 256)
    assert seen.quarantine.values.tolist() == quarantine.values.tolist() and len(quarantine) == 8
    assert (seen.usable, seen.total, seen.sampled) == (len(usable), len(found), None) and seen.usable == 2
    assert str(seen).startswith(f"10 images in {root}, 2 usable: 2 too_small (long.png: 31x90 (height x width), needs ")
    with pytest.raises(ValueError, match=r"10 images.*asks for 50%: write what each.*, or lower data\.high, 40x48, to"):
        seen.require()


def test_only_headers_are_read(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow decodes a PNG without EXIF whole when it is asked for the orientation."""

    def decoded(self: object) -> None:
        raise AssertionError("decoded")

    root = folder({"a.png": plain(40, 48), "b.jpg": plain(48, 40, "JPEG", exif=TURN)})
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", decoded)
    assert [read_header(root / name)[:2] for name in ("a.png", "b.jpg")] == [(48, 40), (48, 40)]  # width, height


def test_a_side_of_nothing_is_a_damaged_header(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(raw_png(noise(), 8, 2, (0, 48)))
    assert read_header(file).reason == "corrupt"


def many(folder: Folder, small: int) -> Path:
    """Forty images, of which the first are too small."""
    sizes = [(20, 24)] * small + [(40, 48)] * (40 - small)
    pictures = {f"{i:02}.png": plain(*size) for i, size in enumerate(sizes)}
    return folder(pictures | {f"{i:02}.txt": str(i) for i in range(40)})


def test_of_many_images_a_part_speaks_for_all(folder: Folder) -> None:
    root = many(folder, small=10)
    seen = precheck_images(find_images(root), SIZES, params(root), most=8)
    assert (seen.usable, seen.total, seen.sampled) == (30, 40, 8)
    assert f"40 images in {root}, about 30 usable, going by 8 headers: 2 too_small" in seen.require()


def test_a_refusal_rests_on_all_headers(folder: Folder) -> None:
    """Every fifth would say that 20 of 40 are usable, which 55 % refuses; there are 24."""
    root = many(folder, small=16)
    found, data = find_images(root), params(root, min_usable_share=0.55)
    assert precheck(read_headers(found, 8), SIZES, data).refused
    seen = precheck_images(found, SIZES, data, most=8)
    assert (seen.refused, seen.usable, seen.sampled) == (False, 24, None)


def test_sizes_that_are_not_known_make_nothing_too_small(folder: Folder) -> None:
    root = many(folder, small=40)
    assert precheck_images(find_images(root), (), params(root)).usable == 40


def test_one_image_alone_cannot_be_trained_on(folder: Folder) -> None:
    root = folder({"a.png": plain(40, 48), "a.txt": "a fox"})
    with pytest.raises(ValueError, match=r"1 usable; two are needed at least, one to train on .*: put in more"):
        precheck_images(find_images(root), SIZES, params(root)).require()


def test_the_share_that_fills_is_that_of_the_nearest_bucket() -> None:
    assert share_filling([(40, 48), (64, 32), (32, 64), (63, 32)], SIZES) == 0.75
