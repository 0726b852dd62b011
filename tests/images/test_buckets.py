"""Buckets: sizes that fit the model, counterparts of their proportions, and images encoded in their own."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from vibe_pipeline.diffusion.models import encode_video, find_model, load_vae
from vibe_pipeline.experiment.data import DataParams
from vibe_pipeline.experiment.model import ClipSize
from vibe_pipeline.images import cache as cache_module
from vibe_pipeline.images import check_images, find_images
from vibe_pipeline.images.buckets import make_buckets
from vibe_pipeline.images.cache import PARTS, LatentCache, build_cache
from vibe_pipeline.images.captions import check_captions
from vibe_pipeline.images.degradation import degradation_check
from vibe_pipeline.images.encode import prepare_pixels


def size(height: int, width: int) -> dict[str, int]:
    return {"height": height, "width": width}


def data(tmp_path: Path, high: tuple[int, int], low: tuple[int, int], **changes: Any) -> DataParams:
    return DataParams(path=tmp_path, high=size(*high), low=size(*low), **changes)


def test_the_sizes_of_the_paper(wan22, tmp_path: Path) -> None:
    native = ClipSize(height=704, width=1280)
    params = data(tmp_path, (1536, 2752), (704, 1280))
    buckets = make_buckets(find_model(str(wan22.path)), native, params)
    assert len(buckets) > 10 and len({b.high for b in buckets}) == len(buckets)
    for bucket in buckets:
        for name, multiple, near in (("high", 64, 1e-9), ("low", 32, 0.035), ("native", 1, 0.016)):
            budget = 1536 * 2752 if name == "high" else 704 * 1280
            height, width = getattr(bucket, name)
            assert height % multiple == width % multiple == 0
            assert 0.92 * budget < height * width <= 1.001 * budget
            assert math.log(width / height) == pytest.approx(math.log(bucket.high[1] / bucket.high[0]), abs=near)
    (own,) = [b for b in buckets if b.high == (1536, 2752)]
    assert (own.low, own.native) == ((704, 1280), (704, 1280))
    single = make_buckets(find_model(str(wan22.path)), native, params.model_copy(update={"buckets": "single"}))
    assert single == [own]


@pytest.mark.parametrize(
    ("high", "low", "changes", "message"),
    [
        ((100, 128), (32, 64), {}, r"data\.high 100x128 must be a multiple of 64x64"),
        ((96, 128), (32, 32), {}, r"data\.high 96x128 must be a multiple of 64x64; nearest that are: 64x128"),
        ((128, 128), (40, 64), {"buckets": "single"}, r"data\.low 40x64 must be a multiple of 32x32"),
        ((128, 192), (64, 64), {"max_aspect": 1.2}, r"data\.max_aspect 1\.2: size 128x192"),
    ],
)
def test_sizes_that_do_not_fit(wan22, tmp_path: Path, high: tuple, low: tuple, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_buckets(find_model(str(wan22.path)), wan22.model().native, data(tmp_path, high, low, **changes))
    if changes == {} and high == (96, 128):
        make_buckets(find_model(str(wan22.path)), wan22.model().native, data(tmp_path, high, low, bucket_tokens=1))
    with pytest.raises(ValueError, match="low 64x32 does not lie within high 32x64"):
        data(tmp_path, (32, 64), (64, 32))


def gradients(height: int, width: int) -> np.ndarray:
    """Red rises with the row, green with the column: where a cut was taken shows in its values."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.dstack([rows * 255 / height, columns * 255 / width, np.full((height, width), 90)]).astype(np.uint8)


def test_an_image_must_cover_the_size_of_its_own_proportions(tmp_path: Path) -> None:
    sizes = {"wide": (40, 80), "wide, low": (39, 80), "tall": (80, 40), "tall, narrow": (80, 39), "square": (56, 60)}
    for name, (height, width) in sizes.items():
        Image.fromarray(gradients(height, width)).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text("a ball")
    good, bad = check_images(find_images(tmp_path), [(40, 80), (56, 56), (80, 40)], 5)
    assert good["file_name"].tolist() == ["square.png", "tall.png", "wide.png"]
    assert bad["reason"].tolist() == ["too_small", "too_small"]
    assert [value.split(";")[0].split("needs ")[1] for value in bad["value"]] == ["80x40", "40x80"]
    with pytest.raises(ValueError, match="without a size"):
        check_images(find_images(tmp_path), [], 5)


@pytest.fixture
def usable(tmp_path: Path) -> pd.DataFrame:
    """Seven images of three proportions, in turn."""
    shapes, rows = [(128, 260), (190, 200), (256, 128)], []
    for i in range(7):
        height, width = shapes[i % 3]
        path = tmp_path / f"{i}.png"
        Image.fromarray(np.roll(gradients(height, width), i, axis=2)).save(path)
        caption = f"a plain red circle moving {('left', 'right')[i % 2]}"
        rows.append({"path": str(path), "caption": caption, "sha256": f"s{i}", "height": height, "width": width})
    return pd.DataFrame(rows)


def test_each_image_is_encoded_in_its_own_bucket(
    wan21, usable: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "SHARD", 2)
    params = data(tmp_path, (128, 256), (64, 96), held_out=3, encode_batch=2)
    found, model = find_model(str(wan21.path)), wan21.model()
    manifest = build_cache(usable, found, model, params, tmp_path / "cache")
    buckets = make_buckets(found, model.native, params)
    assert [r["sha256"] for r in manifest["images"]] == usable["sha256"].tolist()
    chosen = [buckets[r["bucket"]].high for r in manifest["images"]]
    assert chosen == [[(128, 256), (160, 192), (256, 128)][i % 3] for i in range(7)]
    assert manifest["settings"]["buckets"][manifest["images"][0]["bucket"]]["high"] == (128, 256)
    vae, bucket = load_vae(found, torch.device("cpu")), buckets[manifest["images"][5]["bucket"]]
    cache = LatentCache({**manifest, "images": [manifest["images"][5] | {"held_out": False}]})
    for part, pixels in prepare_pixels([usable.loc[5]], bucket, params).items():
        torch.testing.assert_close(cache.batch(part, [0]), encode_video(vae, pixels), rtol=2e-3, atol=2e-3)
        height, width = bucket.low if part == "low" else bucket.high
        assert cache.shape(part, 0) == (16, 1, height // 8, width // 8)
    for held_out in (False, True):
        whole = LatentCache(manifest, held_out)
        assert sorted(i for members in whole.buckets.values() for i in members) == list(range(len(whole)))
        for members in whole.buckets.values():
            assert all(whole.batch(part, members).isfinite().all() for part in PARTS)
    assert len(degradation_check(manifest)) == 2


def test_the_low_image_is_the_middle_undistorted_and_the_pixel_one_lies_upon_the_high(
    usable: pd.DataFrame, wan21, tmp_path: Path
) -> None:
    """A low size of other proportions than the high one takes less of the picture, never squeezes it."""
    found = find_model(str(wan21.path))
    params = data(tmp_path, (128, 256), (64, 96))
    (bucket,) = [b for b in make_buckets(found, wan21.model().native, params) if b.high == (128, 256)]
    assert bucket.low == (64, 96)
    pixels = prepare_pixels([usable.loc[0]], bucket, params)
    slope = {p: [float(x[0, c, 0].diff(dim=c)[4:-4, 4:-4].mean()) for c in (0, 1)] for p, x in pixels.items()}
    assert slope["low"] == pytest.approx([2 * s for s in slope["high"]], rel=0.03)
    assert slope["pixel"] == pytest.approx(slope["high"], rel=0.03)
    assert float(pixels["low"][0, 1].mean()) == pytest.approx(float(pixels["high"][0, 1].mean()), abs=0.01)
    assert float((pixels["pixel"] - pixels["high"])[..., 8:-8, 8:-8].abs().max()) < 0.05


def test_captions_that_the_encoder_would_cut_go_to_quarantine(wan21) -> None:
    captions = ["a red circle", "red " * 11, "red " * 12, "a blue circle"]
    usable = pd.DataFrame({"file_name": list("bcde"), "caption": captions})
    quarantine = pd.DataFrame({"file_name": ["a", "f"], "reason": "corrupt", "value": "x"})
    good, bad = check_captions(usable, quarantine, find_model(str(wan21.path)), 12)
    assert good["file_name"].tolist() == ["b", "c", "e"] and good.index.tolist() == [0, 1, 2]
    assert bad["file_name"].tolist() == ["a", "d", "f"]
    assert bad.loc[1, ["reason", "value"]].tolist() == ["caption_too_long", "13 tokens, model.text_length is 12"]
    none, bad = check_captions(usable.head(0), quarantine.head(0), find_model(str(wan21.path)), 12)
    assert none.empty and bad.empty
