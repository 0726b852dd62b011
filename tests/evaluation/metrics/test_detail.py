"""Resolution-aware measures on clips whose answer is known."""

import math

import numpy as np
import pytest

from vibe_pipeline.evaluation.metrics.detail import (
    band_correlation,
    band_error,
    band_unmendable,
    first_frame_jump,
    flicker,
    high_frequency_share,
    psnr,
    residual_noise,
    spectrum,
    spectrum_distance,
)

SIZE, FRAMES = 64, 4


def grey(luma):
    """[T, H, W] to a clip."""
    return np.repeat(np.asarray(luma)[..., None], 3, axis=-1)


def wave(cycles, amplitude=0.2, size=SIZE, frames=FRAMES, angle=0.0, width=None, phase=0.0):
    """A still plane wave, `cycles` a frame height."""
    y, x = np.mgrid[:size, : width or size] / size
    turns = cycles * (x * math.cos(angle) + y * math.sin(angle))
    return grey(np.repeat((0.5 + amplitude * np.sin(2 * math.pi * turns + phase))[None], frames, 0))


def noise(sigma, seed=0, frames=FRAMES, size=SIZE):
    return grey(0.5 + sigma * np.random.default_rng(seed).standard_normal((frames, size, size)))


@pytest.mark.parametrize("angle", [0.0, 0.5, math.pi / 2])
@pytest.mark.parametrize("width", [SIZE, 96])
def test_a_wave_lies_in_its_band(angle, width):
    clip = wave(20, angle=angle, width=width)
    assert high_frequency_share(clip, 17, 23) == pytest.approx(1, abs=1e-3)
    assert high_frequency_share(clip, 1, 17) == pytest.approx(0, abs=1e-3)


def test_bands_mean_the_same_picture_at_every_size():
    for size in (64, 128):
        assert high_frequency_share(wave(20, size=size), 17, 23) == pytest.approx(1, abs=1e-3)


def test_share_is_of_power():
    two = wave(6, 0.3) + wave(20, 0.1) - 0.5
    assert high_frequency_share(two, 14, 26) == pytest.approx(0.1**2 / (0.1**2 + 0.3**2), rel=0.02)


def test_share_of_white_noise_is_the_bands_area():
    radius = SIZE * np.hypot(*np.meshgrid(np.fft.fftfreq(SIZE), np.fft.fftfreq(SIZE)))
    area = np.mean((radius >= 10) & (radius < 20))
    assert high_frequency_share(noise(0.1, frames=8), 10, 20) == pytest.approx(area, rel=0.05)


def test_flat_clips_have_no_share():
    flat = np.full((2, 16, 16, 3), 0.3)
    assert math.isnan(high_frequency_share(flat, 2, 8))
    half = np.concatenate([flat[:1], wave(5, size=16, frames=1)])  # a flat frame says nothing and is left out
    assert high_frequency_share(half, 3, 8) == pytest.approx(high_frequency_share(half[1:], 3, 8))


@pytest.mark.parametrize("sigma", [0.02, 0.1])
def test_spectrum_of_white_noise_is_flat_at_its_power(sigma):
    levels = spectrum(noise(sigma, frames=16), 8)
    assert levels.shape == (8,)
    assert levels == pytest.approx(np.full(8, 2 * math.log10(sigma)), abs=0.15)


@pytest.mark.parametrize("height", [16, 17, 63, 64, 90])
def test_every_ring_holds_a_frequency(height):
    clip = 0.5 + 0.1 * np.random.default_rng(0).standard_normal((1, height, 40, 3)).clip(-3, 3)
    for bins in {1, 3, height // 3, height // 2}:
        assert np.isfinite(spectrum(clip, bins)).all()


def test_spectrum_peaks_at_the_wave_and_is_floored_at_rounding():
    levels = spectrum(wave(20), 32)
    assert int(np.argmax(levels)) in (19, 20)
    assert levels.min() == pytest.approx(math.log10((1 / 255) ** 2 / 12))


def test_spectrum_distance():
    loud, soft = noise(0.1, 1, 16), noise(0.1 / math.sqrt(10), 2, 16)
    assert spectrum_distance(loud, loud) == 0
    assert spectrum_distance(loud, soft, 8) == pytest.approx(1, abs=0.1)
    assert spectrum_distance(loud, soft) == spectrum_distance(soft, loud)
    assert spectrum_distance(loud[:2], loud) < spectrum_distance(loud[:2], soft)  # lengths may differ


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (wave(20), 0.0),
        (wave(20, 0.1), 0.25),
        (wave(20, phase=math.pi), 4.0),
        (wave(20, phase=math.pi / 2), 2.0),
        (wave(6), 1.0),
        (np.full_like(wave(20), 0.5), 1.0),
    ],
)
def test_band_error(other, expected):
    assert band_error(other, wave(20), 14, 26) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("gain", [0.3, 1.0, 2.0])
def test_a_scaled_copy_can_be_mended_altogether(gain):
    truth = noise(0.04, 1)
    clip = 0.5 + gain * (truth - 0.5)
    assert band_unmendable(clip, truth, 10, 20) == pytest.approx(0, abs=1e-9)
    assert band_error(clip, truth, 10, 20) == pytest.approx((1 - gain) ** 2, rel=1e-6)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (wave(20, phase=math.pi / 2), 1.0),  # as strong, in no place right
        (wave(20, phase=math.pi / 3), 0.75),  # a correlation of a half
        (wave(20, phase=math.pi), 0.0),  # inverted: a negative gain mends it
        (wave(6), 1.0),
        (np.full_like(wave(20), 0.5), 1.0),
    ],
)
def test_what_no_gain_mends(other, expected):
    assert band_unmendable(other, wave(20), 14, 26) == pytest.approx(expected, abs=1e-3)


def test_what_no_gain_mends_is_the_least_band_error_over_all_gains():
    truth = np.concatenate([noise(0.04, 1, frames=2), noise(0.01, 3, frames=2)])  # frames of unlike power
    clip = 0.5 + 0.6 * (truth - 0.5) + 0.5 * (noise(0.04, 2) - 0.5)
    gains = np.linspace(0.1, 2, 96)
    errors = [band_error(0.5 + gain * (clip - 0.5), truth, 10, 20) for gain in gains]
    found = band_unmendable(clip, truth, 10, 20)
    assert 0.1 < found < 0.9 and min(errors) == pytest.approx(found, abs=1e-4)
    assert found < band_error(clip, truth, 10, 20)
    assert found != pytest.approx(1 - band_correlation(clip, truth, 10, 20) ** 2, abs=0.01), (
        "not of the mean over frames"
    )


def test_nothing_in_the_truths_band_has_nothing_to_mend():
    assert math.isnan(band_unmendable(wave(20), np.full_like(wave(20), 0.5), 14, 26))


def test_band_error_follows_from_correlation_and_strength():
    truth, clip = noise(0.1, 1), 0.5 + 0.6 * (noise(0.1, 1) - 0.5) + 0.5 * (noise(0.1, 2) - 0.5)
    strength = math.sqrt(high_frequency_share(clip, 10, 20) / high_frequency_share(truth, 10, 20))
    strength *= float(np.std(clip) / np.std(truth))
    expected = 1 + strength**2 - 2 * strength * band_correlation(clip, truth, 10, 20)
    assert band_error(clip, truth, 10, 20) == pytest.approx(expected, rel=0.02)


def test_band_error_needs_a_truth():
    assert math.isnan(band_error(wave(20), np.full_like(wave(20), 0.5), 14, 26))


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (wave(20), 1.0),
        (wave(20, 0.05), 1.0),
        (wave(20, phase=math.pi), -1.0),
        (wave(20, phase=math.pi / 2), 0.0),
        (wave(6), 0.0),
        (np.full_like(wave(20), 0.5), 0.0),
        (noise(0.1), 0.0),
    ],
)
def test_band_correlation(other, expected):
    assert band_correlation(other, wave(20), 15, 25) == pytest.approx(expected, abs=0.1)


def test_noise_adds_power_and_takes_correlation():
    """A truth of band noise plus as much other noise correlates at 1 / sqrt(2), however strong the share gets."""
    truth = noise(0.05, 1, 8)
    noisy = truth + noise(0.05, 2, 8) - 0.5
    assert band_correlation(noisy, truth, 10, 30) == pytest.approx(1 / math.sqrt(2), abs=0.03)
    assert band_correlation(noisy, truth, 10, 30) == pytest.approx(band_correlation(truth, noisy, 10, 30))


def test_band_correlation_without_truth_in_the_band():
    assert math.isnan(band_correlation(wave(20), np.full_like(wave(20), 0.5), 15, 25))


@pytest.mark.parametrize(("shift", "expected"), [(0.1, 20.0), (0.01, 40.0), (0.0, math.inf)])
def test_psnr(shift, expected):
    truth = wave(5)
    assert psnr(truth + shift, truth) == pytest.approx(expected)
    assert psnr((truth + shift).astype(np.float32), truth.astype(np.float32)) == pytest.approx(expected, abs=1e-3)


def test_flicker_is_the_mean_change():
    clip = grey(0.5 + 0.05 * np.array([0, 1, 0, 1])[:, None, None] * np.ones((4, 8, 8)))
    assert flicker(clip) == pytest.approx(0.05)
    assert flicker(wave(7)) == 0
    # For white noise of deviation s the mean absolute difference is 2 s / sqrt(pi).
    assert flicker(noise(0.05, frames=16)) == pytest.approx(2 * 0.05 / math.sqrt(math.pi), rel=0.02)


def test_mask_leaves_out_what_moves():
    clip = np.full((4, 16, 16, 3), 0.4)
    clip[1::2, :8] = 0.9  # the upper half "moves"
    static = np.zeros((4, 16, 16))
    static[:, 8:] = 1
    assert flicker(clip) == pytest.approx(0.25) and flicker(clip, static) == 0
    assert flicker(clip, 0.5 * static + 0.5 * (1 - static)) == pytest.approx(0.25)
    assert math.isnan(flicker(clip, np.zeros((4, 16, 16))))
    assert math.isnan(first_frame_jump(clip, np.zeros((4, 16, 16))))
    assert math.isnan(residual_noise(clip, np.zeros((4, 16, 16))))
    assert residual_noise(clip, static) == 0


@pytest.mark.parametrize(
    ("levels", "expected"),
    [([0, 0.3, 0.3, 0.3], 0.3), ([0, 0.1, 0.2, 0.3], 0.0), ([0, 0, 0.1, 0.2], -0.1), ([0, 0.3, 0.35, 0.4, 0.9], 0.25)],
)
def test_first_frame_jump(levels, expected):
    clip = grey(np.asarray(levels)[:, None, None] * np.ones((len(levels), 4, 4)))
    assert first_frame_jump(clip) == pytest.approx(expected)


def test_first_frame_jump_skips_steps_without_static_pixels():
    clip = grey(np.array([0, 0.3, 0.4, 0.9])[:, None, None] * np.ones((4, 4, 4)))
    static = np.ones((4, 4, 4))
    static[3] = 0
    assert first_frame_jump(clip, static) == pytest.approx(0.2)


@pytest.mark.parametrize("sigma", [0.01, 0.05])
def test_residual_noise_finds_sigma_through_a_textured_moving_scene(sigma):
    still = noise(sigma, 3, 8)
    assert residual_noise(still) == pytest.approx(sigma, rel=0.03)
    textured = still + 0.3 * np.random.default_rng(1).uniform(-0.5, 0.5, (1, SIZE, SIZE, 1))
    assert residual_noise(textured) == pytest.approx(sigma, rel=0.03)
    drifting = still + np.linspace(0, 0.2, 8)[:, None, None, None] * np.linspace(0, 1, SIZE)[:, None, None]
    assert residual_noise(drifting) == pytest.approx(sigma, rel=0.03)
    edge = still.copy()
    for t in range(8):  # a bright bar that moves over an eighth of the picture
        edge[t, :, 4 + 2 * t : 8 + 2 * t] += 0.2
    assert residual_noise(edge) == pytest.approx(sigma, rel=0.25)


def test_residual_noise_is_blind_to_noise_that_stands_still():
    assert residual_noise(np.repeat(noise(0.1, frames=1), 4, axis=0)) == 0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: flicker(np.zeros((4, 8, 8))), r"a clip is \[frames, height, width, 3\]; this one is \[4, 8, 8\]"),
        (lambda: flicker(np.zeros((4, 8, 8, 3), np.uint8)), "uint8: divide bytes by 255"),
        (lambda: psnr(wave(3) * 255, wave(3)), "lies in"),
        (lambda: flicker(np.full((4, 8, 8, 3), math.nan)), "nan"),
        (lambda: flicker(wave(3)[:1]), "at least 2 frames are needed; the clip has 1"),
        (lambda: residual_noise(wave(3)[:1]), "at least 2 frames"),
        (lambda: first_frame_jump(wave(3)[:2]), "at least 3 frames"),
        (lambda: flicker(wave(3), np.ones((4, 2, 2))), "the mask is"),
        (lambda: flicker(wave(3), np.full((4, 64, 64), 2.0)), "a mask lies in"),
        (lambda: psnr(wave(3), wave(3)[:2]), "differ in shape"),
        (lambda: band_correlation(wave(3), wave(3)[:2], 1, 2), "differ in shape"),
        (lambda: spectrum_distance(wave(3), wave(3, size=32)), "different frames"),
        (lambda: spectrum(wave(3), 33), "between 1 and 32 rings"),
        (lambda: high_frequency_share(wave(3), 60, 90), "64x64 frame has no frequency from 60 to 90"),
        (lambda: high_frequency_share(wave(3), 9, 9), "no frequency"),
    ],
)
def test_wrong_input_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_float32_is_enough():
    clip, truth = (noise(0.05, 1) + wave(9) - 0.5).clip(0, 1), wave(9)
    for measure in (flicker, residual_noise, first_frame_jump):
        assert measure(clip.astype(np.float32)) == pytest.approx(measure(clip), rel=1e-3, abs=1e-6)
    small = clip.astype(np.float32), truth.astype(np.float32)
    assert band_correlation(*small, 5, 12) == pytest.approx(band_correlation(clip, truth, 5, 12), rel=1e-4)
