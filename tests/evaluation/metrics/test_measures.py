"""One pass over a clip's frames against the same measures written from their formulas over the whole clip."""

import itertools
import tracemalloc

import numpy as np
import pytest

from vibe_pipeline.evaluation.metrics.measures import Beside, measure_clip
from vibe_pipeline.evaluation.metrics.resolution import MEASURES
from vibe_pipeline.evaluation.metrics.static import StaticMask
from vibe_pipeline.reporting.glossary import words

BAND = (10.0, 20.0)
RNG = np.random.default_rng(5)


def stored(frames: int = 6, height: int = 60, width: int = 90, noise: float = 0.03, seed: int = 1) -> np.ndarray:
    """A textured clip with a moving bar, noise and a first-frame jump, as bytes."""
    rng = np.random.default_rng(seed)
    still = np.random.default_rng(7).uniform(0.2, 0.7, (1, height, width, 3))
    clip = still + noise * rng.standard_normal((frames, height, width, 3))
    clip[0] += 0.04
    for t in range(frames):
        clip[t, :, 3 * t : 3 * t + 8] += 0.2
    return np.rint(clip.clip(0, 1) * 255).astype(np.uint8)


def mask_of(height: int, width: int) -> StaticMask:
    mask = np.ones((height, width), bool)
    mask[:, : width // 3] = False
    mask[5:8, 50:53] = False
    return StaticMask(mask)


EVERYWHERE = StaticMask(np.ones((2, 2), bool))


def plain_luma(clip: np.ndarray) -> np.ndarray:
    return clip.astype(np.float64) / 255 @ [0.2126, 0.7152, 0.0722]


def plain_transform(frame: np.ndarray) -> np.ndarray:
    window = np.outer(*(np.hanning(n + 2)[1:-1] for n in frame.shape))
    centred = frame - np.sum(frame * window) / np.sum(window)
    return np.fft.fft2(centred * window) / np.sqrt(np.sum(window**2))


def plain_radius(height: int, width: int) -> np.ndarray:
    return height * np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])


def plain_measures(clip: np.ndarray, truth: np.ndarray, static: np.ndarray) -> dict[str, float]:
    """Straight from the definitions, in double precision, over the whole clip at once."""
    radius = plain_radius(*clip.shape[1:3])
    band = (radius >= BAND[0]) & (radius < BAND[1])
    ours, true = (np.stack([plain_transform(f) for f in plain_luma(c)]) for c in (clip, truth))
    change = np.abs(np.diff(clip.astype(np.float64) / 255, axis=0)).mean(-1)
    steps = change[:, static].mean(1)
    luma = plain_luma(clip)
    residual = np.diff(np.diff(np.diff(luma, axis=0), n=2, axis=1), n=2, axis=2)
    whole = np.lib.stride_tricks.sliding_window_view(static, (3, 3)).all((2, 3))
    values = residual[:, whole]
    bins = min(48, clip.shape[1] // 2)
    spectra = []
    for power in (np.mean(np.abs(ours) ** 2, 0), np.mean(np.abs(true) ** 2, 0)):
        edges = np.arange(bins + 1) * clip.shape[1] / 2 / bins
        ring = [(radius > max(low, 0) + 1e-7) & (radius <= high + 1e-7) for low, high in itertools.pairwise(edges)]
        spectra.append(np.log10([max(power[r].mean(), (1 / 255) ** 2 / 12) for r in ring]))
    powers, true_powers = (np.sum(np.abs(t[:, band]) ** 2, 1) for t in (ours, true))
    both = np.sum((ours[:, band] * true[:, band].conj()).real, 1)
    return {
        "high_frequency_share": np.mean(powers / np.sum(np.abs(ours[:, radius > 0]) ** 2, 1)),
        "flicker": steps.mean(),
        "first_frame_jump": steps[0] - np.median(steps[1:]),
        "residual_noise": 1.4826 * np.median(np.abs(values - np.median(values))) / (6 * np.sqrt(2)),
        "static_share": static.mean(),
        "psnr": -10 * np.log10(np.mean((clip.astype(np.float64) - truth) ** 2) / 255**2),
        "band_correlation": np.mean(both / np.sqrt(powers * true_powers)),
        "band_error": np.sum(np.abs(ours - true)[:, band] ** 2) / true_powers.sum(),
        "band_unmendable": 1 - both.sum() ** 2 / (powers.sum() * true_powers.sum()),
        "spectrum_distance": np.sqrt(np.mean((spectra[0] - spectra[1]) ** 2)),
    }


@pytest.mark.parametrize("size", [(60, 90), (61, 47), (130, 64)])
@pytest.mark.parametrize("kind", ["bytes", "floats"])
def test_one_pass_gives_what_the_formulas_give(size: tuple[int, int], kind: str) -> None:
    clip, truth, static = stored(6, *size), stored(6, *size, noise=0.0), mask_of(*size)
    expected = plain_measures(clip, truth, static.mask)
    given = (c if kind == "bytes" else c.astype(np.float32) / 255 for c in (clip, truth))
    ours, true = given
    found = measure_clip(iter(ours), BAND, Beside(static, truth=iter(true)))
    assert found.missing == {}
    assert set(found.values) == set(expected)
    for name, value in expected.items():
        assert found.values[name] == pytest.approx(value, rel=1e-5, abs=3e-6), name
    assert len(found.levels) == len(found.cycles) == min(48, size[0] // 2)


def test_a_measure_sees_its_band_and_its_mask() -> None:
    """Two clips that differ from the truth in one band each; two that flicker in one half each."""
    y = np.arange(64)[:, None, None] / 64
    low, high = (0.1 * np.sin(2 * np.pi * cycles * y) for cycles in (5, 15))
    truth = np.broadcast_to(0.5 + low + high, (3, 64, 64, 3)).astype(np.float32)
    beside = [Beside(EVERYWHERE, truth=truth)] * 2
    wrong_low, wrong_high = (
        measure_clip((truth - part).astype(np.float32), BAND, b).values["band_error"]
        for part, b in zip((low, high), beside, strict=True)
    )
    assert wrong_low == pytest.approx(0, abs=1e-4) and wrong_high == pytest.approx(1, abs=1e-4)
    flickering = truth.copy()
    flickering[1, :32] += 0.1
    upper = np.zeros((4, 4), bool)
    upper[:2] = True
    for mask, expected in ((upper, 0.1), (~upper, 0.0)):
        found = measure_clip(flickering, BAND, Beside(StaticMask(mask)))
        assert found.values["flicker"] == pytest.approx(expected, abs=1e-6)


def test_native_agreement_is_of_the_shrunk_clip() -> None:
    native = np.broadcast_to(np.linspace(0.2, 0.8, 20, dtype=np.float32)[None, :, None, None], (3, 20, 30, 3))
    clip = np.broadcast_to(np.linspace(0.2, 0.8, 20, dtype=np.float32).repeat(4)[None, :, None, None], (3, 80, 120, 3))
    near = measure_clip(clip, BAND, Beside(EVERYWHERE, native=native)).values["native_psnr"]
    off = measure_clip(clip + np.float32(0.1), BAND, Beside(EVERYWHERE, native=native)).values["native_psnr"]
    assert near > 40 and off == pytest.approx(20, abs=0.3)


@pytest.mark.parametrize(
    ("frames", "missing"),
    [
        (1, {"flicker", "residual_noise", "first_frame_jump"}),
        (2, {"first_frame_jump"}),
        (3, set()),
    ],
)
def test_short_clips_lack_what_needs_more_frames(frames: int, missing: set[str]) -> None:
    found = measure_clip(stored(frames), BAND, Beside(EVERYWHERE, truth=stored(frames, noise=0.0)))
    assert set(found.missing) == missing
    assert all(f"the clip has {frames}" in reason for reason in found.missing.values())
    assert {"high_frequency_share", "psnr", "band_error", "static_share"} <= set(found.values)


def test_what_differs_in_length_or_size_says_so() -> None:
    clip, native = stored(5), stored(9, 30, 45)
    found = measure_clip(clip, BAND, Beside(EVERYWHERE, native=native, truth=stored(3)))
    assert found.missing["native_psnr"] == "5 frames beside 9 of the native clip"
    paired = {"psnr", "band_correlation", "band_error", "band_unmendable", "spectrum_distance"}
    assert {found.missing[name] for name in paired} == {"5 frames beside 3 of the true render"}
    other = measure_clip(clip, BAND, Beside(EVERYWHERE, truth=stored(5, 30, 45)))
    assert {other.missing[name] for name in paired} == {"60x90 beside 30x45 of the true render"}
    assert other.values["flicker"] == measure_clip(clip, BAND, Beside(EVERYWHERE)).values["flicker"]


def test_frames_too_small_for_the_band_lack_that_alone() -> None:
    found = measure_clip(stored(4, 12, 40)[:, :, :12], BAND, Beside(EVERYWHERE))
    assert found.missing == {
        "high_frequency_share": "a 12x12 frame has no frequency from 10.0 to 20.0 cycles per height"
    }
    assert found.values["flicker"] > 0


def test_nothing_static_is_a_reason_and_not_a_number() -> None:
    mask = np.zeros((60, 90), bool)
    mask[0, :100] = True
    found = measure_clip(stored(), BAND, Beside(StaticMask(mask)))
    assert {"flicker", "residual_noise", "first_frame_jump"} == set(found.missing)
    assert all(r.startswith("nothing is static: nothing moves in 1.7%") for r in found.missing.values())
    assert found.values["static_share"] == pytest.approx(1 / 60)


def test_no_frames_is_an_error() -> None:
    with pytest.raises(ValueError, match="without frames"):
        measure_clip(iter(()), BAND, Beside(EVERYWHERE))


def test_memory_does_not_grow_with_the_clip() -> None:
    def peak(frames: int) -> int:
        picture = stored(1, 200, 300)[0]
        clip, native = ((np.roll(picture[::step], t, 1) for t in range(frames)) for step in (1, 2))
        tracemalloc.start()
        try:
            measure_clip(clip, BAND, Beside(EVERYWHERE, native=native, truth=(picture for _ in range(frames))))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    fixed = 4 * 17 * 2**17 * 8  # the classes of residual noise, and what their median needs
    short, long = peak(5), peak(50)
    assert long < short + 200 * 300 * 3
    assert long - fixed < 16 * 200 * 300 * 3 * 4


def test_every_measure_has_words_and_a_side() -> None:
    assert len({m.name for m in MEASURES}) == len(MEASURES)
    for measure in MEASURES:
        assert measure.direction in ("higher", "lower", "none") and measure.needs in ("", "static", "truth", "native")
        assert words(measure.name).label == measure.label and measure.explanation.endswith(".")
