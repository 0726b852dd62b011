"""HD-MSE, co-occurrence entropies and the JPEG ratio against their formulas, by hand and in loops."""

import io
import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from vibe_pipeline.evaluation.metrics.asked import ASKED
from vibe_pipeline.evaluation.metrics.cooccurrence import grey_levels, tile_entropies
from vibe_pipeline.evaluation.metrics.high_resolution import EVERY, HIGH_RESOLUTION
from vibe_pipeline.evaluation.metrics.measures import Beside, measure_clip
from vibe_pipeline.evaluation.metrics.remainder import FACTORS, enlarged_strips, shrunk
from vibe_pipeline.evaluation.metrics.static import StaticMask

NAMES = tuple(measure.name for measure in HIGH_RESOLUTION)
BESIDE = Beside(StaticMask(np.ones((2, 2), bool)))
BAND = (5.0, 20.0)


def measured(clip: np.ndarray, extra: tuple[str, ...] = NAMES) -> dict[str, float]:
    return measure_clip(iter(clip), BAND, BESIDE, extra).values


def textured(height: int, width: int, noise: float = 0.0, frames: int = 1) -> np.ndarray:
    """A smooth picture with noise of so many grey levels, bytes [T, H, W, 3]."""
    y, x = np.mgrid[:height, :width]
    picture = 128 + 60 * np.sin(y / 17) * np.cos(x / 23)
    grain = noise * np.random.default_rng(3).standard_normal((frames, height, width, 3))
    return np.rint((picture[None, ..., None] + grain).clip(0, 255)).astype(np.uint8)


def checkerboard(side: int, height: int = 128, width: int = 192) -> np.ndarray:
    y, x = np.mgrid[:height, :width] // side
    return np.repeat((255 * ((y + x) % 2)).astype(np.uint8)[..., None], 3, -1)


def test_only_what_is_asked_for_is_measured() -> None:
    clip = textured(64, 96)
    plain = measured(clip, ())
    assert not set(NAMES) & set(plain)
    assert set(measured(clip, ("hd_mse",))) - set(plain) == {"hd_mse"}
    assert set(measured(clip)) - set(plain) == set(NAMES)


def test_a_constant_clip_has_no_detail() -> None:
    found = measured(np.full((3, 128, 192, 3), 77, np.uint8))
    assert found["hd_mse"] == 0 and found["glcm_entropy"] == pytest.approx(0, abs=1e-12)


def test_hd_mse_of_a_checkerboard_of_single_pixels() -> None:
    """Each shrunk pixel is the mean of two black and two white ones, so all of the pattern is lost, three times."""
    assert measured(checkerboard(1)[None])["hd_mse"] == pytest.approx(3 * 127.5**2)


def test_hd_mse_of_a_checkerboard_of_blocks_of_16() -> None:
    """By 8 and 16 only the edges between blocks blur; by 32 a shrunk pixel lies where four blocks meet: all is lost."""
    clip = checkerboard(16, 128, 128)[None]
    assert 2 * 127.5**2 > measured(clip)["hd_mse"] - 127.5**2 > 0
    by_32 = np.concatenate([rows for _, rows in enlarged_strips(shrunk(clip[0], 32), 128, 128)])
    np.testing.assert_allclose(by_32, 127.5)


@pytest.mark.parametrize("size", [(128, 192), (100, 150), (131, 40)])
def test_hd_mse_is_the_bilinear_one_of_torch(size: tuple[int, int]) -> None:
    """PixelWizard's own calls, over the whole clip at once, in grey levels."""
    clip = textured(*size, noise=20, frames=2)
    pixels, total = torch.from_numpy(clip).permute(0, 3, 1, 2).double(), 0.0
    for factor in (8, 16, 32):
        small = [max(1, side // factor) for side in size]
        down = torch.nn.functional.interpolate(pixels, size=small, mode="bilinear", align_corners=False)
        again = torch.nn.functional.interpolate(down, size=size, mode="bilinear", align_corners=False)
        total += float(torch.mean((again - pixels) ** 2))
    assert measured(clip)["hd_mse"] == pytest.approx(total, rel=1e-5)
    assert measured(clip.astype(np.float32) / 255)["hd_mse"] == pytest.approx(total, rel=1e-4)


def by_loops(levels: np.ndarray) -> tuple[float, float]:
    """Both entropies of one tile, pair by pair: means of -sum p log2 p, and the entropy of all matrices' values."""
    entropies, values = [], Counter()
    for distance, angle in itertools.product((1, 2, 3, 4), (0, 45, 90, 135)):
        down = round(math.sin(math.radians(angle)) * distance)
        right = round(math.cos(math.radians(angle)) * distance)
        pairs = Counter(
            (levels[y, x], levels[y + down, x + right])
            for y, x in itertools.product(range(64), range(64))
            if 0 <= y + down < 64 and 0 <= x + right < 64
        )
        total = pairs.total()
        entropies.append(-sum(n / total * math.log2(n / total) for n in pairs.values()))
        values.update(n / total for n in pairs.values())
        values[0.0] += 64 * 64 - len(pairs)
    everything = values.total()
    return float(np.mean(entropies)), -sum(n / everything * math.log2(n / everything) for n in values.values())


def test_both_entropies_are_those_of_loops_over_pairs() -> None:
    levels = grey_levels(textured(140, 70, noise=9)[0])
    expected = [by_loops(levels[top : top + 64, :64]) for top in (0, 64)]  # the rest is dropped
    np.testing.assert_allclose(tile_entropies(levels), expected, rtol=1e-12)


def test_grey_levels_are_those_of_rec_601_over_four() -> None:
    picture = np.random.default_rng(1).integers(0, 256, (50, 40, 3)).astype(np.uint8)
    exact = picture @ [0.299, 0.587, 0.114]
    near_a_step = np.abs((exact + 0.5) / 4 - np.rint((exact + 0.5) / 4)) < 1e-3
    assert np.array_equal(grey_levels(picture)[~near_a_step], (np.rint(exact) // 4)[~near_a_step])


def test_entropy_of_stripes_by_hand() -> None:
    """Columns of two levels in turn: across, one bit of pairs at odd distances and at even ones; along, one bit too."""
    levels = np.zeros((64, 64), np.uint8)
    levels[:, 1::2] = 63
    assert tile_entropies(levels)[0, 0] == pytest.approx(1.0, abs=1e-3)


def test_jpeg_ratio_counts_the_bytes_that_pillow_writes() -> None:
    clip = textured(80, 96, noise=5, frames=EVERY + 1)
    packed = 0
    for frame in (clip[0], clip[EVERY]):  # the ones between are passed over
        file = io.BytesIO()
        Image.fromarray(frame).save(file, "JPEG", quality=95)
        packed += len(file.getvalue())
    assert measured(clip)["jpeg_ratio"] == pytest.approx(2 * 80 * 96 * 3 / packed)


@pytest.mark.parametrize("measure", HIGH_RESOLUTION, ids=lambda m: m.name)
def test_noise_is_rewarded_as_each_entry_says(measure) -> None:
    """What its words admit: white noise on a picture makes the score better."""
    clean, noisy = (measured(textured(128, 192, noise=level))[measure.name] for level in (0, 12))
    better = noisy > clean if measure.direction == "higher" else noisy < clean
    assert better and "rewards noise" in measure.explanation


def test_every_measure_that_is_asked_for_says_what_it_rewards_wrongly() -> None:
    for metric in ASKED:
        assert "It rewards" in metric.explanation and metric.asked and metric.family in ("high_resolution", "ucf101")
        assert metric.seconds > 0 or getattr(metric, "weights", ())


def test_a_frame_smaller_than_a_tile_has_a_reason() -> None:
    found = measure_clip(iter(textured(60, 96)), BAND, BESIDE, NAMES)
    assert found.missing["glcm_entropy"] == "a tile is 64x64; the frame is 60x96"
    assert "hd_mse" in found.values and "jpeg_ratio" in found.values
    assert FACTORS == (8, 16, 32)
