"""`sr`: a native clip through a network, frame by frame, to the exact target size."""

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from tests.diffusion.rrdb_files import real_esrgan_file
from vibe_pipeline.diffusion import super_resolution
from vibe_pipeline.diffusion.super_resolution import load_network
from vibe_pipeline.diffusion.tiles import tile_starts
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.experiment.super_resolution import SuperResolutionParams
from vibe_pipeline.generation.clip_cache import Scale
from vibe_pipeline.generation.methods.sr import enlarged
from vibe_pipeline.generation.render import arm_clips
from vibe_pipeline.io.files import read_json
from vibe_pipeline.io.video import read_clip, read_frames, write_lossless
from vibe_pipeline.miniature.pixel_network import CompactNetwork, save_network

GENERATION = GenerationParams(prompts="miniature", batch_size=2)
# A tenth of 704x1280 to 2176x3840: 3.09 times as high, 3 times as wide.
NATIVE, TARGET = {"height": 64, "width": 128, "frames": 5}, {"height": 192, "width": 400, "frames": 5}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return real_esrgan_file(tmp_path / "peers")


@pytest.fixture
def native(tmp_path: Path) -> pd.DataFrame:
    """Two smooth clips that move."""
    rows = []
    for i in range(2):
        y, x = np.mgrid[0:64, 0:128].astype(np.float32)
        frames = [
            np.stack([0.5 + 0.4 * np.sin((x + y * k + 4 * t + 9 * i) / 11) for k in (0, 0.5, 1)], -1) for t in range(5)
        ]
        path = write_lossless(tmp_path / f"native{i}.mp4", np.stack(frames), 8)
        rows.append({"prompt_index": i, "prompt": f"p{i}", "seed": 0, "path": str(path), "key": f"n{i}"})
    return pd.DataFrame(rows)


def make(native: pd.DataFrame, model: Any, root: Path, **sr: Any) -> pd.DataFrame:
    arm = ArmParams(label="sr", method="sr", sr=SuperResolutionParams(**sr))
    return arm_clips("sr", arm, native, None, None, model, GENERATION, root)


def test_a_clip_is_what_the_network_gives_resized_before_it_is_rounded(
    wan21, native, weights: Path, tmp_path: Path
) -> None:
    """Both factors off the network's own, as at 4K; against the same in one piece, in plain torch."""
    made = make(native, wan21.model(native=NATIVE, target=TARGET), tmp_path / "out", weights=weights)
    assert made[["height", "width", "frames"]].drop_duplicates().values.tolist() == [[192, 400, 5]]
    clip = read_clip(Path(made["path"][1]))
    assert clip.shape == (5, 192, 400, 3)
    frames = torch.from_numpy(read_clip(Path(native["path"][1]))).permute(0, 3, 1, 2)
    network = load_network(weights).model
    with torch.no_grad():
        large = network(frames).clamp(0, 1)
    assert large.shape[-2:] == (256, 512)
    exact = F.interpolate(large, size=(192, 400), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    np.testing.assert_allclose(clip, exact.permute(0, 2, 3, 1).numpy(), atol=0.51 / 255)
    assert (made["method"] == "sr").all() and (made["seconds"] > 0).all()
    manifest = read_json(Path(made["path"][0]).with_suffix(".json"))
    assert manifest["versions"]["spandrel"] == "0.4.2" and len(manifest["settings"]["network"]) == 64
    preview = list(read_frames(Path(made["preview_path"][0])))
    assert len(preview) == 5


def test_tiles_give_the_same_clip_to_the_eye(wan21, native, weights: Path, tmp_path: Path) -> None:
    model = wan21.model(native=NATIVE, target=TARGET)
    whole = make(native, model, tmp_path / "out", weights=weights)
    tiled = make(native, model, tmp_path / "out", weights=weights, tile=66)
    assert set(whole["path"]).isdisjoint(tiled["path"])
    apart = np.abs(read_clip(Path(whole["path"][0])) - read_clip(Path(tiled["path"][0])))
    assert len(tile_starts(128, 66, 32)) == 3 and apart.max() <= 1 / 255


def test_what_is_there_is_not_made_again(wan21, native, weights: Path, tmp_path: Path, monkeypatch) -> None:
    model = wan21.model(native=NATIVE, target=TARGET)
    first = make(native, model, tmp_path / "out", weights=weights)
    monkeypatch.setattr(super_resolution, "load_network", lambda *_: pytest.fail("a network was loaded"))
    assert make(native, model, tmp_path / "out", weights=weights)["path"].tolist() == first["path"].tolist()


def test_16_bit_is_run_and_named_in_the_key(wan21, native, weights: Path, tmp_path: Path) -> None:
    model = wan21.model(native=NATIVE, target=TARGET, dtype="bfloat16")
    rounded = make(native, model, tmp_path / "out", weights=weights)
    exact = make(native, model, tmp_path / "out", weights=weights, dtype="float32")
    assert rounded["key"][0] != exact["key"][0]
    apart = np.abs(read_clip(Path(rounded["path"][0])) - read_clip(Path(exact["path"][0])))
    assert 0 < apart.mean() < 4 / 255


def test_frames_come_one_at_a_time(native, weights: Path, tmp_path: Path) -> None:
    """Of 60 frames no more than a few are in memory: what numpy holds at its most is far below the clip."""
    long = write_lossless(tmp_path / "long.mp4", np.random.default_rng(0).random((60, 64, 128, 3), np.float32), 8)
    size, seen = Scale(192, 400, 60, 8.0), 0
    frames = enlarged(long, load_network(weights), SuperResolutionParams(weights=weights), size)
    tracemalloc.start()
    try:
        for frame in frames:
            seen += 1
            assert frame.shape == (192, 400, 3) and frame.dtype == np.float32
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert seen == 60 and peak < 3 * 192 * 400 * 3 * 4


def test_a_native_clip_of_another_length_is_refused_and_leaves_nothing(wan21, native, weights, tmp_path: Path) -> None:
    short = write_lossless(tmp_path / "short.mp4", read_clip(Path(native["path"][0]))[:4], 8)
    native.loc[0, "path"] = str(short)
    with pytest.raises(ValueError, match="would have 4 frames, not 5"):
        make(native, wan21.model(native=NATIVE, target=TARGET), tmp_path / "out", weights=weights)
    assert not list((tmp_path / "out/arms").rglob("*.mp4"))


def test_a_file_that_is_gone_by_then_is_named(wan21, native, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"x4\.pth"):
        make(native, wan21.model(native=NATIVE, target=TARGET), tmp_path, weights=tmp_path / "x4.pth")


def test_the_miniatures_own_network_is_one_that_the_loader_knows(tmp_path: Path) -> None:
    """What the recipe writes, read by spandrel: Real-ESRGAN's compact network, and its own output to the bit."""
    torch.manual_seed(0)
    network = CompactNetwork(factor=3, features=12, convolutions=4).to(memory_format=torch.channels_last).eval()
    save_network(network, tmp_path / "own.safetensors")
    found = load_network(tmp_path / "own.safetensors")
    assert (found.architecture.id, found.scale, found.purpose) == ("Compact", 3, "SR")
    frame = torch.rand(1, 3, 10, 14)
    with torch.no_grad():
        torch.testing.assert_close(found(frame), network(frame).clamp(0, 1), rtol=0, atol=1e-6)


def test_the_shipped_network_enlarges_by_the_factor_in_its_name() -> None:
    path = Path(__file__).parents[3] / "data/06_models/pixel_network_x3.safetensors"
    assert load_network(path).scale == 3 and path.stat().st_size < 1e6
