"""The latent cache: what it holds, what survives damage and a kill, who is held out."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from vibe_pipeline.config import DataParams
from vibe_pipeline.diffusion.models import encode_texts, encode_video, find_model, load_vae
from vibe_pipeline.images import cache as cache_module
from vibe_pipeline.images.cache import PARTS, LatentCache, build_cache, epoch_batches
from vibe_pipeline.images.camera import enlarge, shrink
from vibe_pipeline.images.quality import degradation_check

COUNT = 5
CAPTIONS = [f"a plain {c} circle moving left over woven navy" for c in ("red", "green", "blue", "cyan", "white")]


@pytest.fixture
def usable(tmp_path: Path) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = []
    for i in range(COUNT):
        path = tmp_path / f"{i}.png"
        Image.fromarray(rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)).save(path)
        rows.append({"path": str(path), "caption": CAPTIONS[i], "sha256": f"sha{i}"})
    return pd.DataFrame(rows)


@pytest.fixture
def build(wan21, usable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Build the cache in shards of two, for changes of the settings."""
    monkeypatch.setattr(cache_module, "SHARD", 2)

    def run(images: pd.DataFrame = usable, model: dict | None = None, **changes: object) -> dict[str, Any]:
        settings = {"low": {"height": 32, "width": 48}, "high": {"height": 64, "width": 96}, "held_out": 2}
        data = DataParams(path=tmp_path, **(settings | changes))
        return build_cache(images, find_model(str(wan21.path)), wan21.model(**(model or {})), data, tmp_path / "cache")

    return run


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the images encoded since."""
    names: list[str] = []
    original = cache_module.encode_images

    def spy(vae: Any, paths: list[Path], *rest: Any) -> dict:
        names.extend(p.stem for p in paths)
        return original(vae, paths, *rest)

    monkeypatch.setattr(cache_module, "encode_images", spy)
    return names


def test_the_cache_holds_what_encoding_gives(wan21, build, usable) -> None:
    manifest = build()
    found, cpu = find_model(str(wan21.path)), torch.device("cpu")
    cache = LatentCache(manifest)
    i, row = 0, usable.set_index("sha256").loc[cache.entries[0].sha256]
    image = np.asarray(Image.open(row["path"]), np.float32) / 255
    high = torch.from_numpy(image).permute(2, 0, 1)[None, :, None]
    low = shrink(high, 32, 48)
    vae = load_vae(found, cpu)
    for part, pixels in {"low": low, "high": high, "pixel": enlarge(low, 64, 96)}.items():
        torch.testing.assert_close(cache.batch(part, [i]), encode_video(vae, pixels), rtol=2e-3, atol=2e-3)
    text = encode_texts(found, [row["caption"]], 12, cpu, torch.float32)
    torch.testing.assert_close(cache.batch("text", [i]), text)
    assert cache.batch("high", [0, 1]).shape == (2, 16, 1, 8, 12)


def test_held_out_images_are_never_trained_on(build) -> None:
    manifest = build()
    training, held_out = LatentCache(manifest), LatentCache(manifest, held_out=True)
    names = [{e.sha256 for e in c.entries} for c in (training, held_out)]
    assert (len(training), len(held_out)) == (3, 2)
    assert names[0].isdisjoint(names[1])
    with pytest.raises(ValueError, match="no training images"):
        LatentCache(build(held_out=9))


def test_only_damaged_or_missing_shards_are_made_again(build, encoded) -> None:
    first = build()
    assert Counter(encoded) == Counter("01234")
    assert build() == first
    assert len(encoded) == COUNT
    shards = sorted({r["shard"] for r in first["images"]}, key=[r["shard"] for r in first["images"]].index)
    content = Path(shards[1]).read_bytes()
    for damage in (content[: len(content) // 2], b"", b"\xff" * 400):
        encoded.clear()
        Path(shards[1]).write_bytes(damage)
        assert build() == first
        assert encoded == ["2", "3"]
        assert Path(shards[1]).read_bytes() == content
    assert all(LatentCache(first).batch(p, [0]).isfinite().all() for p in PARTS)


def test_a_killed_run_goes_on_where_it_was(build, encoded, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    spied = cache_module.encode_images

    def kill(vae: Any, paths: list[Path], *rest: Any) -> dict:
        if paths[0].stem == "3":
            raise Killed
        return spied(vae, paths, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(cache_module, "encode_images", kill)
        with pytest.raises(Killed):
            build()
    assert encoded == ["0", "1", "2"]
    encoded.clear()
    manifest = build()
    assert encoded == ["2", "3", "4"]
    assert not list(Path(manifest["images"][0]["shard"]).parent.glob(".*"))


@pytest.mark.parametrize(
    ("changes", "made"),
    [
        ({}, 0),
        ({"seed": 1}, 0),
        ({"held_out": 1}, 0),
        ({"camera_blur": 0.5}, COUNT),
        ({"low": {"height": 16, "width": 32}}, COUNT),
        ({"model": {"dtype": "bfloat16"}}, COUNT),
        ({"model": {"text_length": 14}}, COUNT),
    ],
    ids=str,
)
def test_what_changes_the_training_set_changes_the_key(build, encoded, changes: dict, made: int) -> None:
    """Adapters are keyed by it: a stale key would be a stale adapter."""
    first = build()
    encoded.clear()
    second = build(**changes)
    held_out = [[r["held_out"] for r in m["images"]] for m in (first, second)]
    assert (held_out[0] == held_out[1]) == (not {"seed", "held_out"} & set(changes))
    assert len(encoded) == made
    assert (second["key"] == first["key"]) == (not changes)


def test_a_new_caption_changes_the_key_and_its_own_shard(build, encoded, usable) -> None:
    first = build()
    encoded.clear()
    usable.loc[0, "caption"] = CAPTIONS[1]
    assert build(usable)["key"] != first["key"]
    assert encoded == ["0", "1"]


def test_encoding_together_gives_the_same(build, tmp_path: Path) -> None:
    caches = []
    for batch in (1, 2):
        for shard in (tmp_path / "cache").glob("*.safetensors"):
            shard.unlink()
        caches.append(LatentCache(build(encode_batch=batch)))
    for part in PARTS:
        torch.testing.assert_close(*(c.batch(part, range(3)) for c in caches), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(("count", "batch"), [(6, 2), (7, 3), (5, 5)])
def test_batches_are_a_function_of_the_seed_and_hold_no_image_twice_an_epoch(count: int, batch: int) -> None:
    def take(seed: int) -> list[list[int]]:
        return [b for b, _ in zip(epoch_batches(count, batch, seed), range(3 * (count // batch)), strict=False)]

    assert take(1) == take(1) != take(2)
    per_epoch = count // batch
    for start in range(0, len(take(1)), per_epoch):
        drawn = [i for b in take(1)[start : start + per_epoch] for i in b]
        assert len(set(drawn)) == len(drawn) == per_epoch * batch
        assert set(drawn) <= set(range(count))
    with pytest.raises(ValueError, match="do not fill a batch"):
        next(epoch_batches(count, count + 1, 0))


def test_the_degradation_check_compares_with_the_held_out_images(build) -> None:
    manifest = build()
    table = degradation_check(manifest).set_index("kind")
    cache = LatentCache(manifest, held_out=True)
    difference = cache.batch("pixel", [0, 1]) - cache.batch("high", [0, 1])
    expected = float(difference.square().mean())
    assert table.loc["pixel", "mse_degraded"] == table.loc["pixel", "mse_upsampled"] == pytest.approx(expected)
    assert table.loc["pixel", "mse_between"] == 0
    assert table.loc["latent", "mse_between"] > 0
    assert table.loc["latent", "mse_upsampled"] == pytest.approx(expected)
