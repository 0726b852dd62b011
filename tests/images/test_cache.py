"""The latent cache: what it holds, what survives damage and a kill, who is held out."""

import gc
import resource
import shutil
import signal
import subprocess
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from transformers import UMT5EncoderModel

from vibe_pipeline.diffusion.models import encode_texts, encode_video, find_model, load_vae
from vibe_pipeline.diffusion.objectives import degrade
from vibe_pipeline.experiment.adapters import AdapterParams, DegradationParams
from vibe_pipeline.experiment.data import DataParams, PixelDraws
from vibe_pipeline.images import cache as cache_module
from vibe_pipeline.images import encode as encode_module
from vibe_pipeline.images.cache import PARTS, LatentCache, build_cache
from vibe_pipeline.images.degradation import check_of, degradation_check
from vibe_pipeline.images.encode import drawn_factor
from vibe_pipeline.images.resize import enlarge, shrink
from vibe_pipeline.runtime.deadline import DEADLINE, OutOfTimeError

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
        sizes = {"low": {"height": 32, "width": 48}, "high": {"height": 64, "width": 96}}
        data = DataParams(
            path=tmp_path, **(sizes | {"held_out": 2, "held_out_share": 0.5, "buckets": "single"} | changes)
        )
        return build_cache(images, find_model(str(wan21.path)), wan21.model(**(model or {})), data, tmp_path / "cache")

    return run


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the images, and the captions, encoded since."""
    names: list[str] = []
    prepare, embed = encode_module.prepare_pixels, encode_module.text_embeddings

    def spy(rows: list[dict[str, Any]], *rest: Any, **more: Any) -> dict:
        names.extend(Path(row["path"]).stem for row in rows)
        return prepare(rows, *rest, **more)

    def spied(texts: Iterator[str], captions: Iterable[str], *rest: Any) -> Iterator:
        return embed(texts, (names.append(c) or c for c in captions), *rest)

    monkeypatch.setattr(encode_module, "prepare_pixels", spy)
    monkeypatch.setattr(encode_module, "text_embeddings", spied)
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


def test_drawn_degradations_are_by_factors_of_each_image(wan21, usable, build) -> None:
    """The same in whatever batch; the other latents are those of a cache without them."""
    draws = {"least": 1.5, "most": 4.0, "count": 2}
    manifest, plain = build(pixel_draws=draws, encode_batch=3), build()
    cache, without = LatentCache(manifest), LatentCache(plain)
    assert (cache.draws, without.draws) == (2, 0) and manifest["key"] != plain["key"]
    vae, paths = load_vae(find_model(str(wan21.path)), torch.device("cpu")), usable.set_index("sha256")["path"]
    factors = []
    for i, entry in enumerate(cache.entries):
        image = torch.from_numpy(np.asarray(Image.open(paths[entry.sha256]), np.float32) / 255).permute(2, 0, 1)[None]
        for draw in range(2):
            factors.append(drawn_factor(entry.sha256, draw, PixelDraws(**draws), 0))
            size = round(64 / factors[-1]), round(96 / factors[-1])
            small = torch.nn.functional.interpolate(image, size=size, mode="bilinear", antialias=True)
            back = torch.nn.functional.interpolate(small, size=(64, 96), mode="bilinear", antialias=True)
            found = cache.batch("drawn", [i], torch.tensor([draw]))
            torch.testing.assert_close(found, encode_video(vae, back[:, :, None]), rtol=2e-3, atol=2e-3)
    assert len(set(factors)) == len(factors) and all(1.5 <= f <= 4.0 for f in factors)
    both = cache.batch("drawn", [1, 1], torch.tensor([0, 1]))
    assert torch.equal(both[:1], cache.batch("drawn", [1], torch.tensor([0]))) and not torch.equal(both[0], both[1])
    torch.testing.assert_close(cache.batch("pixel", [0, 1]), without.batch("pixel", [0, 1]), rtol=2e-3, atol=2e-3)
    with pytest.raises(ValueError, match="has no part 'drawn'"):
        without.batch("drawn", [0], torch.tensor([0]))
    rows = degradation_check(manifest, [AdapterParams(label="a", degradation={"kind": "pixel_drawn"})])
    assert rows["kind"].tolist() == ["latent", "pixel", "pixel_drawn"] and rows["mse_degraded"].notna().all()
    adapter = AdapterParams(label="a", degradation={"kind": "pixel_drawn"})
    assert len(check_of(rows, adapter)) == 1


def test_held_out_images_are_never_trained_on(build) -> None:
    manifest = build()
    training, held_out = LatentCache(manifest), LatentCache(manifest, held_out=True)
    names = [{e.sha256 for e in c.entries} for c in (training, held_out)]
    assert (len(training), len(held_out)) == (3, 2)
    assert names[0].isdisjoint(names[1])
    assert len(LatentCache(build(held_out=9))) == 3, "the share bounds it"
    with pytest.raises(ValueError, match="no training images"):
        LatentCache(manifest | {"images": [r | {"held_out": True} for r in manifest["images"]]})


def test_too_few_images_are_refused_before_anything_is_encoded(build, encoded, usable) -> None:
    with pytest.raises(ValueError, match=r"1 usable image.* at least 2 are needed"):
        build(usable.head(1))
    assert encoded == []


def test_only_damaged_or_missing_shards_are_made_again(build, encoded) -> None:
    first = build()
    assert Counter(encoded) == Counter([*"01234", *CAPTIONS])
    encoded.clear()
    assert build() == first
    assert encoded == []
    for kind, redone in (("shard", ["2", "3"]), ("text_shard", CAPTIONS[2:4])):
        shard = Path(first["images"][2][kind])
        content = shard.read_bytes()
        for damage in (content[: len(content) // 2], b"", b"\xff" * 400, None):
            encoded.clear()
            shard.write_bytes(damage) if damage is not None else shard.unlink()
            assert build() == first
            assert encoded == redone
            assert shard.read_bytes() == content
    assert all(LatentCache(first).batch(p, [0]).isfinite().all() for p in PARTS)


KILL = """
import os, signal, sys
from pathlib import Path
import pandas as pd
import vibe_pipeline
from vibe_pipeline.experiment.data import DataParams, PixelDraws
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.diffusion.models import find_model
from vibe_pipeline.images import cache, encode

home, moment = Path(sys.argv[1]), int(sys.argv[2])
cache.SHARD, saves, save = 2, [], encode.save_file

def save_and_die(tensors, path):
    saves.append(path)
    if len(saves) == moment:
        Path(path).write_bytes(b"half a shard")
        os.kill(os.getpid(), signal.SIGKILL)
    save(tensors, path)

encode.save_file = save_and_die
model = ModelParams.model_validate_json((home / "model.json").read_text())
data = DataParams.model_validate_json((home / "data.json").read_text())
cache.build_cache(pd.read_csv(home / "usable.csv"), find_model(model.path), model, data, home / "killed")
"""


@pytest.mark.parametrize("moment", [2, 5])
def test_a_killed_process_loses_the_shard_in_work(
    wan21, usable, encoded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    """Three shards of captions, then three of images: killed while it writes the second of either."""
    monkeypatch.setattr(cache_module, "SHARD", 2)
    sizes = {"low": {"height": 32, "width": 48}, "high": {"height": 64, "width": 96}}
    model, data = wan21.model(), DataParams(path=tmp_path, buckets="single", held_out=2, **sizes)
    (tmp_path / "model.json").write_text(model.model_dump_json())
    (tmp_path / "data.json").write_text(data.model_dump_json())
    usable.to_csv(tmp_path / "usable.csv", index=False)
    killed = subprocess.run([sys.executable, "-c", KILL, str(tmp_path), str(moment)], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    home = tmp_path / "killed"
    assert len(list(home.glob("[!.]*.safetensors"))) == moment - 1 and len(list(home.glob(".*.safetensors"))) == 1
    manifest = build_cache(usable, find_model(model.path), model, data, home)
    assert encoded == ([*CAPTIONS[2:], *"01234"] if moment == 2 else list("234"))
    assert not list(home.glob(".*"))
    straight = build_cache(usable, find_model(model.path), model, data, tmp_path / "straight")
    assert manifest["key"] == straight["key"]
    for part in PARTS:
        torch.testing.assert_close(
            *(LatentCache(m).batch(part, range(3)) for m in (manifest, straight)), rtol=0, atol=0
        )


def test_spent_hours_keep_the_shards_that_are_there(build, encoded, monkeypatch: pytest.MonkeyPatch) -> None:
    write = encode_module._write

    def write_and_spend(*arguments: Any) -> None:
        write(*arguments)
        if set(encoded) - set(CAPTIONS):  # an image's shard is there
            monkeypatch.setenv(DEADLINE, "0")

    with monkeypatch.context() as patch:
        patch.setattr(encode_module, "_write", write_and_spend)
        with pytest.raises(OutOfTimeError, match=r"kept: all encoded captions, [12] encoded images"):
            build()
    monkeypatch.delenv(DEADLINE)
    build()
    assert sorted(encoded) == sorted([*CAPTIONS, *map(str, range(COUNT))])  # nothing twice


def test_a_disk_too_small_is_refused_before_and_told_during(
    build, encoded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=30_000))
        with pytest.raises(OSError, match=r"0\.00 GB free, 0\.00 GB are needed"):
            build()
    assert encoded == []
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # a caption shard has 6 kB, one of images 14
        with pytest.raises(OSError, match=r"latents-.*could not be written .*finished shards are kept"):
            build()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert sorted(p.name[:5] for p in (tmp_path / "cache").iterdir()) == ["text-"] * 3
    encoded.clear()
    build()
    assert Counter(encoded) == Counter("01234")


def test_the_estimate_covers_what_is_written(build, usable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(encode_module, "require_space", lambda folder, needed: asked.append(needed))
    (tmp_path / "cache").mkdir()
    build()
    written = sum(p.stat().st_size for p in (tmp_path / "cache").glob("*.safetensors"))
    assert asked[0] == pytest.approx(written, rel=0.1)
    build()
    assert asked[1:] in ([], [0])


@pytest.mark.parametrize(
    ("changes", "made"),
    [
        ({}, []),
        ({"seed": 1}, []),
        ({"held_out": 1}, []),
        ({"camera_blur": 0.5}, list("01234")),
        ({"low": {"height": 16, "width": 32}}, list("01234")),
        ({"model": {"dtype": "bfloat16"}}, CAPTIONS),
        ({"model": {"text_length": 14}}, CAPTIONS),
        ({"model": {"tile": 64}}, list("01234")),
    ],
    ids=str,
)
def test_what_changes_the_training_set_changes_the_key(build, encoded, changes: dict, made: list[str]) -> None:
    """Adapters are keyed by it: a stale key would be a stale adapter."""
    first = build()
    encoded.clear()
    second = build(**changes)
    held_out = [[r["held_out"] for r in m["images"]] for m in (first, second)]
    assert (held_out[0] == held_out[1]) == (not {"seed", "held_out"} & set(changes))
    assert encoded == made
    assert (second["key"] == first["key"]) == (not changes)


def test_a_new_caption_changes_the_key_and_its_own_shard(build, encoded, usable) -> None:
    first = build()
    encoded.clear()
    usable.loc[0, "caption"] = CAPTIONS[1]
    assert build(usable)["key"] != first["key"]
    assert encoded == [CAPTIONS[1], CAPTIONS[1]]


def test_encoding_together_gives_the_same(build, tmp_path: Path) -> None:
    caches = []
    for batch in (1, 2):
        for shard in (tmp_path / "cache").glob("*.safetensors"):
            shard.unlink()
        caches.append(LatentCache(build(encode_batch=batch)))
    for part in PARTS:
        torch.testing.assert_close(*(c.batch(part, range(3)) for c in caches), rtol=2e-3, atol=2e-3)


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


def test_every_adapters_check_is_of_its_own_factor_and_mode(build, tmp_path: Path) -> None:
    """Also once the table was saved as CSV and read again, as the report does."""
    manifest = build()
    rows = [
        AdapterParams(label="a", degradation=DegradationParams(factor=factor, mode=mode))
        for factor in (0.5, 0.25)
        for mode in ("trilinear", "nearest")
    ]
    pixel = AdapterParams(label="p", degradation=DegradationParams(kind="pixel"))
    naive = AdapterParams(label="v", objective={"velocity": 1.0}, degradation=DegradationParams(factor=0.1))
    degradation_check(manifest, [*rows, pixel, naive]).to_csv(tmp_path / "checks.csv", index=False)
    table = pd.read_csv(tmp_path / "checks.csv")
    assert len(table) == 5  # the paper's form is one of the rows' and stands once; nothing degrades by 0.1
    cache, found = LatentCache(manifest, held_out=True), []
    high = cache.batch("high", [0, 1])
    for row in rows:
        check = check_of(table, row)
        found.append(float(check["mse_degraded"].item()))
        degraded = degrade(high, row.degradation.factor, row.degradation.mode)
        assert found[-1] == pytest.approx(float((degraded - high).square().mean()), rel=1e-5)
    assert len(set(found)) == 4 and found[2] > found[0]
    assert check_of(table, pixel)["kind"].tolist() == ["pixel"]
    assert check_of(table, naive).empty
    other = AdapterParams(label="o", degradation=DegradationParams(factor=0.3))
    assert check_of(table, other).empty  # of another run's table: no figures rather than wrong ones
    assert check_of(table[["kind", "mse_degraded"]], rows[0]).empty


def test_noise_and_blur_are_checked_too(build, tmp_path: Path) -> None:
    """Noise destroys its variance, a blur what a Gaussian filter of that reach takes away."""
    manifest = build()
    noise = [AdapterParams(label="n", degradation={"kind": "noise", "std": std}) for std in (0.01, 0.1)]
    soft = [AdapterParams(label="b", degradation={"kind": "blur", "kernel": k}) for k in (3, 5)]
    share = AdapterParams(label="s", degradation={"kind": "blur", "probability": 0.5})  # of its images; no other map
    degradation_check(manifest, [*noise, *soft, share]).to_csv(tmp_path / "checks.csv", index=False)
    table = pd.read_csv(tmp_path / "checks.csv")
    assert table["kind"].tolist() == ["latent", "pixel", "noise", "noise", "blur", "blur"]
    assert [*table][:6] == ["kind", "factor", "mode", "std", "kernel", "sigma"]
    pd.testing.assert_frame_equal(degradation_check(manifest, [*noise, *soft]), table, rtol=1e-6)
    for row in noise:
        found = check_of(table, row)["mse_degraded"].item()
        assert found == pytest.approx(row.degradation.std**2, rel=0.1)
    high = LatentCache(manifest, held_out=True).batch("high", [0, 1]).double().numpy()
    for row in (*soft, share):
        reach = row.degradation.kernel // 2
        blurred = gaussian_filter(high, 1.0, mode="mirror", radius=reach, axes=(-2, -1))
        assert check_of(table, row)["mse_degraded"].item() == pytest.approx(((blurred - high) ** 2).mean(), rel=1e-4)
    assert check_of(table, AdapterParams(label="o", degradation={"kind": "noise", "std": 0.02})).empty
    assert [*degradation_check(manifest)][:4] == ["kind", "factor", "mode", "mse_degraded"], "columns of what is asked"


def test_text_encoder_and_vae_are_never_in_memory_together(build, monkeypatch: pytest.MonkeyPatch) -> None:
    encoders: weakref.WeakSet = weakref.WeakSet()
    seen: dict[str, int] = {}
    load, embed = encode_module.load_vae, UMT5EncoderModel.from_pretrained

    def load_encoder(*args: Any, **options: Any) -> UMT5EncoderModel:
        encoders.add(encoder := embed(*args, **options))
        seen["loaded"] = len(encoders)
        return encoder

    def load_vae_and_count(*args: Any) -> Any:
        gc.collect()
        seen["beside the VAE"] = len(encoders)
        return load(*args)

    monkeypatch.setattr(UMT5EncoderModel, "from_pretrained", load_encoder)
    monkeypatch.setattr(encode_module, "load_vae", load_vae_and_count)
    build()
    assert seen == {"loaded": 1, "beside the VAE": 0}
