"""HD-LPIPS on random weights in the layout of the published files, against another implementation of LPIPS."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from vibe_pipeline.evaluation.metrics.lpips import ALEXNET, HD_LPIPS, HEADS, Lpips, hd_lpips
from vibe_pipeline.evaluation.metrics.networks import spaced
from vibe_pipeline.evaluation.metrics.remainder import FACTORS, enlarged_strips, shrunk

CHANNELS = (64, 192, 384, 256, 256)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """AlexNet as torchvision keeps it, and heads as the package lpips does: weights that are not negative."""
    torch.manual_seed(0)
    network = torchvision.models.alexnet(weights=None)
    heads = {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, c in enumerate(CHANNELS)}
    places = [tmp_path / weight.path for weight in (ALEXNET, HEADS)]
    for state, place in zip((network.state_dict(), heads), places, strict=True):
        torch.save(state, place)
    return places


@pytest.fixture
def lpips(files: list[Path]) -> Lpips:
    return Lpips(*files, "cpu")


def picture(noise: float = 0.0, size: tuple[int, int] = (96, 128)) -> np.ndarray:
    y, x = np.mgrid[: size[0], : size[1]]
    plain = 128 + 60 * np.sin(y / 17) * np.cos(x / 23)
    grain = noise * np.random.default_rng(3).standard_normal((*size, 3))
    return np.rint((plain[..., None] + grain).clip(0, 255)).astype(np.uint8)


def test_a_constant_frame_loses_nothing(lpips: Lpips) -> None:
    assert hd_lpips(np.full((96, 128, 3), 77, np.uint8), lpips) == pytest.approx(0, abs=1e-9)


def test_noise_is_rewarded_as_its_words_say(lpips: Lpips) -> None:
    assert hd_lpips(picture(12), lpips) > 1.5 * hd_lpips(picture(), lpips) > 0
    assert "rewards noise" in HD_LPIPS.explanation and HD_LPIPS.direction == "higher"


@pytest.mark.skipif(find_spec("pyiqa") is None, reason="pyiqa is not installed")
@pytest.mark.filterwarnings("ignore")
def test_the_distance_is_that_of_pyiqas_lpips(files: list[Path], lpips: Lpips, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyiqa.archs import lpips_arch

    network = torchvision.models.alexnet(weights=None)
    network.load_state_dict(torch.load(files[0], weights_only=True))
    monkeypatch.setattr(lpips_arch.models, "alexnet", lambda **_: network)  # else it would fetch its own
    theirs = lpips_arch.LPIPS(pretrained_model_path=str(files[1]))
    frame = picture(20)
    pixels, total = torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 255, 0.0
    for factor in FACTORS:
        enlarged = np.concatenate([rows for _, rows in enlarged_strips(shrunk(frame, factor), 96, 128)])
        total += float(theirs(torch.from_numpy(enlarged).permute(2, 0, 1)[None] / 255, pixels))
    assert hd_lpips(frame, lpips) == pytest.approx(total, rel=1e-4)


def test_a_clip_is_the_mean_of_16_frames(files: list[Path], lpips: Lpips) -> None:
    frames = [picture(noise) for noise in (0, 10)]
    watcher = HD_LPIPS.load(files, "cpu")()
    for frame in frames:
        watcher.take(frame)
    assert watcher.result() == pytest.approx(np.mean([hd_lpips(frame, lpips) for frame in frames]))
    assert HD_LPIPS.frames == 16 and len(spaced(81, HD_LPIPS.frames)) == 16


def test_a_small_frame_has_a_reason(lpips: Lpips) -> None:
    with pytest.raises(ValueError, match="64x64 pixels at least; these are 48x128"):
        hd_lpips(picture(size=(48, 128)), lpips)
