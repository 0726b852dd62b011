"""Resolution-aware measures, for what VBench shrinks away: fine detail, its truth, noise and flicker.

All take float RGB clips [T, H, W, 3] in [0, 1]. Frequencies are in cycles per frame height, so that a band means
the same picture content at every size; the highest is H / 2. Spectra are of the luminance (Rec. 709) under a
Hann window, which keeps the frame's edges from leaking into every frequency.
"""

import itertools
import math
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from vibe_pipeline.evaluation.pixels import Clip, checked, luminance, require_same_shape

Mask = NDArray[np.floating]

DIRECTIONS: Mapping[str, str] = MappingProxyType(
    {
        "high_frequency_share": "none",
        "spectrum_distance": "lower",
        "flicker": "lower",
        "residual_noise": "lower",
        "first_frame_jump": "lower",
        "psnr": "higher",
        "band_correlation": "higher",
        "band_error": "lower",
    }
)
# Power of 8-bit rounding noise: below it, two stored clips cannot be told apart.
ROUNDING_POWER = (1 / 255) ** 2 / 12
# Power under which a frame counts as flat: an amplitude of a ten-thousandth of the range.
FLAT_POWER = 1e-8
MAD_TO_SIGMA = 1.4826  # of a normal distribution


def high_frequency_share(clip: Clip, low_cycles: float, high_cycles: float) -> float:
    """Share of the AC luminance power with low <= frequency < high, mean over frames.

    Direction: none by itself, since noise raises it too; read it beside `band_correlation`.

    Args:
        clip: [T, H, W, 3] in [0, 1].
        low_cycles: Lower end of the band, cycles per frame height.
        high_cycles: Upper end, excluded.

    Returns:
        A fraction; NaN if every frame is flat.

    Raises:
        ValueError: The clip's shape or range is wrong, or the frame holds no frequency of the band.

    Source: own; radial power as in Field, JOSA A 4 (1987), 2379.
    """
    luma = luminance(clip)
    radius = _radius(*luma.shape[1:])
    band = _band(radius, low_cycles, high_cycles)
    shares = []
    for frame in luma:
        power = np.abs(_windowed_transform(frame)) ** 2
        total = power[radius > 0].sum()
        if total > FLAT_POWER * power.size:
            shares.append(power[band].sum() / total)
    return float(np.mean(shares)) if shares else math.nan


def spectrum(clip: Clip, bins: int) -> NDArray[np.float64]:
    """Radial log10 power spectrum of the luminance, [bins], averaged over frames before the logarithm.

    Rings have equal width and cover 0 (excluded) to H / 2 cycles per frame height. White noise of standard
    deviation s gives log10(s ** 2) in every ring. Power is floored at that of 8-bit rounding noise.

    Raises:
        ValueError: The clip's shape or range is wrong, or `bins` is not between 1 and H // 2.
    """
    luma = luminance(clip)
    height = luma.shape[1]
    if not 1 <= bins <= height // 2:
        raise ValueError(f"bins = {bins}: a frame {height} pixels high has between 1 and {height // 2} rings")
    radius = _radius(*luma.shape[1:])
    # Rings are closed above, so that each holds a whole frequency; the margin absorbs rounding.
    ring = np.ceil(radius / (height / 2) * bins - 1e-9).astype(int) - 1
    inside = (radius > 0) & (ring < bins)
    power = np.mean([np.abs(_windowed_transform(frame)[inside]) ** 2 for frame in luma], axis=0)
    mean = np.bincount(ring[inside], power, bins) / np.bincount(ring[inside], minlength=bins)
    return np.log10(np.maximum(mean, ROUNDING_POWER))


def spectrum_distance(a: Clip, b: Clip, bins: int | None = None) -> float:
    """Root mean square difference of the log10 radial spectra of two clips of one size; 1 is a factor of 10 in power.

    Direction: lower is better, `b` being the truth. `bins` defaults to 32, or H // 2 if that is fewer.

    Raises:
        ValueError: The frames' sizes differ, or as :func:`spectrum`.

    Source: own; radial log spectra as in Durall et al., CVPR 2020, "Watch your up-convolution".
    """
    if np.shape(a)[1:] != np.shape(b)[1:]:
        raise ValueError(f"spectra of different frames: {np.shape(a)[1:]} and {np.shape(b)[1:]}")
    rings = bins or min(32, np.shape(a)[1] // 2)
    return float(np.sqrt(np.mean((spectrum(a, rings) - spectrum(b, rings)) ** 2)))


def band_correlation(a: Clip, b: Clip, low_cycles: float, high_cycles: float) -> float:
    """Correlation of the band-passed luminance of a clip with that of the truth, mean over frames.

    Energy alone rewards noise: noise adds to `high_frequency_share`, and here lowers the figure. Direction: higher
    is better. 1 is all of the true detail, 0 is none (also when `a` has nothing in the band), negative is its inverse.

    Args:
        a: [T, H, W, 3] in [0, 1].
        b: The truth, of the same shape.
        low_cycles: Lower end of the band, cycles per frame height.
        high_cycles: Upper end, excluded.

    Returns:
        Between -1 and 1; NaN if the truth has nothing in the band in any frame.

    Raises:
        ValueError: The shapes differ, a clip's range is wrong, or the frame holds no frequency of the band.

    Source: own; the correlation in a ring is the Fourier ring correlation (van Heel and Schatz, 2005).
    """
    require_same_shape(a, b)
    luma_a, luma_b = luminance(a), luminance(b)
    band = _band(_radius(*luma_a.shape[1:]), low_cycles, high_cycles)
    correlations = []
    for frame_a, frame_b in zip(luma_a, luma_b, strict=True):
        ours, truth = _windowed_transform(frame_a)[band], _windowed_transform(frame_b)[band]
        power, true_power = np.sum(np.abs(ours) ** 2), np.sum(np.abs(truth) ** 2)
        if true_power <= FLAT_POWER * band.sum():
            continue
        found = power > FLAT_POWER * band.sum()
        correlations.append(np.sum(ours * truth.conj()).real / math.sqrt(power * true_power) if found else 0.0)
    return float(np.mean(correlations)) if correlations else math.nan


def band_error(a: Clip, b: Clip, low_cycles: float, high_cycles: float) -> float:
    """Power of what differs from the truth in a band, over the truth's own power there; over all frames together.

    Detail that is right and as strong as it should be gives 0, none at all 1, and detail in the wrong place more:
    unlike `band_correlation` it counts the strength too, unlike `psnr` it is not drowned by the rest of the picture.

    Args:
        a: [T, H, W, 3] in [0, 1].
        b: The truth, of the same shape.
        low_cycles: Lower end of the band, cycles per frame height.
        high_cycles: Upper end, excluded.

    Returns:
        At least 0; NaN if the truth has nothing in the band.

    Raises:
        ValueError: As :func:`band_correlation`.

    Source: own; a normalised mean square error.
    """
    require_same_shape(a, b)
    luma_a, luma_b = luminance(a), luminance(b)
    band = _band(_radius(*luma_a.shape[1:]), low_cycles, high_cycles)
    error = power = 0.0
    for frame_a, frame_b in zip(luma_a, luma_b, strict=True):
        truth = _windowed_transform(frame_b)[band]
        error += float(np.sum(np.abs(_windowed_transform(frame_a)[band] - truth) ** 2))
        power += float(np.sum(np.abs(truth) ** 2))
    return error / power if power > FLAT_POWER * band.sum() * len(luma_b) else math.nan


def psnr(a: Clip, b: Clip) -> float:
    """Peak signal-to-noise ratio over the whole clip, dB; infinite for identical clips.

    Direction: higher is better, `b` being the truth; it prefers blur to misplaced detail.

    Raises:
        ValueError: The shapes differ, or a clip's range is wrong.
    """
    require_same_shape(a, b)
    pairs = zip(checked(a), checked(b), strict=True)
    error = float(np.mean([np.mean((x - y) ** 2, dtype=np.float64) for x, y in pairs]))
    return -10 * math.log10(error) if error > 0 else math.inf


def flicker(clip: Clip, mask: Mask | None = None) -> float:
    """Mean absolute change of a pixel's RGB from frame to frame, where the scene is static.

    Direction: lower is better.

    Args:
        clip: [T, H, W, 3] in [0, 1], T >= 2.
        mask: [T, H, W] in [0, 1], how static a pixel is; None: everywhere. A change counts by the product of both
            frames' weights.

    Returns:
        On the scale of pixel values; NaN if nothing is static.

    Raises:
        ValueError: A shape or range is wrong, or there are too few frames.

    Source: VBench's temporal_flickering (Huang et al., CVPR 2024), which is 1 minus this without a mask.
    """
    change, weight = _changes(clip, mask, 2)
    return float(np.sum(change * weight) / np.sum(weight)) if weight.any() else math.nan


def first_frame_jump(clip: Clip, mask: Mask | None = None) -> float:
    """How much more the picture changes from frame 0 to 1 than from one later frame to the next.

    The mean absolute change 0 -> 1 over static pixels minus the median of that of the later steps: a video VAE
    encodes frame 0 alone, and image-only training can set it apart. Direction: lower is better; 0 is no jump, and
    negative is a first step calmer than the rest.

    Args:
        clip: [T, H, W, 3], T >= 3.
        mask: As for :func:`flicker`.

    Returns:
        On the scale of pixel values; NaN if nothing is static at the first step or at every later one.

    Raises:
        ValueError: As :func:`flicker`.

    Source: own.
    """
    change, weight = _changes(clip, mask, 3)
    totals = weight.sum(axis=(1, 2))
    known = totals > 0
    steps = np.sum(change * weight, axis=(1, 2))[known] / totals[known]
    return float(steps[0] - np.median(steps[1:])) if known[0] and known[1:].any() else math.nan


def residual_noise(clip: Clip, mask: Mask | None = None) -> float:
    """Standard deviation of the luminance noise that changes from frame to frame, robustly estimated.

    The frame difference takes out what is still, a Laplacian across space takes out smooth changes of light and
    smooth motion, and the median absolute deviation ignores the few pixels where edges move. For white noise of
    deviation s the residual has deviation s * 6 * sqrt(2). Noise that stands still is not seen. Direction: lower.

    Args:
        clip: [T, H, W, 3] in [0, 1], T >= 2, H and W >= 3.
        mask: As for :func:`flicker`; used are pixels that are static (>= 0.5) over the Laplacian's 3x3 in both frames.

    Returns:
        On the scale of pixel values; NaN if nothing is static. Below about 1/255 it is 0 for 8-bit clips.

    Raises:
        ValueError: As :func:`flicker`.

    Source: Immerkaer, "Fast noise variance estimation", CVIU 64 (1996), 300, on frame differences, with the MAD.
    """
    luma = luminance(clip)
    static = _static(mask, luma.shape, 2) >= 0.5
    # Second differences over both axes are Immerkaer's kernel.
    residual = np.diff(np.diff(np.diff(luma, axis=0), n=2, axis=1), n=2, axis=2)
    height, width = residual.shape[1:]
    both = static[1:] & static[:-1]
    used = np.logical_and.reduce([both[:, y : y + height, x : x + width] for y in range(3) for x in range(3)])
    if not used.any():
        return math.nan
    values = residual[used]
    return float(MAD_TO_SIGMA * np.median(np.abs(values - np.median(values))) / (6 * math.sqrt(2)))


def _radius(height: int, width: int) -> NDArray[np.float64]:
    """Frequency of each Fourier coefficient, [H, W], cycles per frame height."""
    return height * np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])


def _band(radius: NDArray[np.float64], low: float, high: float) -> NDArray[np.bool_]:
    band = (radius >= low) & (radius < high) & (radius > 0)
    if not band.any():
        height, width = radius.shape
        raise ValueError(f"a {height}x{width} frame has no frequency from {low} to {high} cycles per height")
    return band


def _windowed_transform(frame: NDArray[np.floating]) -> NDArray[np.complex128]:
    """Fourier transform under a Hann window, mean taken out; white noise of deviation s has power s ** 2."""
    height, width = frame.shape
    window = np.hanning(height + 2)[1:-1, None] * np.hanning(width + 2)[None, 1:-1]  # no zero weights at the edges
    centred = frame - np.sum(frame * window) / np.sum(window)
    return np.fft.fft2(centred * window) / math.sqrt(np.sum(window**2))


def _static(mask: Mask | None, shape: tuple[int, ...], fewest_frames: int) -> Mask:
    """The mask, ones if there is none; [T, H, W]."""
    if shape[0] < fewest_frames:
        raise ValueError(f"at least {fewest_frames} frames are needed; the clip has {shape[0]}")
    if mask is None:
        return np.ones(shape, np.float32)
    weights = np.asarray(mask, np.float32)
    if weights.shape != shape:
        raise ValueError(f"the mask is {list(weights.shape)}, and the clip's frames are {list(shape)}")
    if not (weights.min() >= 0 and weights.max() <= 1):
        raise ValueError(f"a mask lies in [0, 1]; this one goes from {weights.min():.4g} to {weights.max():.4g}")
    return weights


def _changes(clip: Clip, mask: Mask | None, fewest_frames: int) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Absolute change of RGB per pixel and step, and its weight; both [T - 1, H, W]."""
    array = checked(clip)
    static = _static(mask, array.shape[:3], fewest_frames)
    change = np.stack([np.abs(b - a).mean(axis=-1) for a, b in itertools.pairwise(array)])
    return change, static[1:] * static[:-1]
