"""Resolution-aware measures, for what VBench shrinks away: fine detail, its truth, noise and flicker.

All take float RGB clips [T, H, W, 3] in [0, 1] and feed their frames to the parts of `gathering`, as scoring does with
the frames of a file (`measures`). Frequencies are in cycles per frame height, so that a band means
the same picture content at every size; the highest is H / 2. Spectra are of the luminance (Rec. 709) under a
Hann window, which keeps the frame's edges from leaking into every frequency.
"""

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from vibe_pipeline.evaluation.metrics.gathering import (
    BandMatch,
    BandShare,
    Part,
    RadialSpectrum,
    Setting,
    SquaredError,
    Step,
)
from vibe_pipeline.evaluation.metrics.pixels import Clip, Frame, Grid, checked, require_same_shape
from vibe_pipeline.evaluation.metrics.temporal import Changes, TemporalNoise
from vibe_pipeline.io.score_table import too_few

Mask = NDArray[np.floating]
Gathered = TypeVar("Gathered", bound=Part)


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
    return _gathered(BandShare, clip, band=(low_cycles, high_cycles)).mean()


def spectrum(clip: Clip, bins: int) -> NDArray[np.float64]:
    """Radial log10 power spectrum of the luminance, [bins], averaged over frames before the logarithm.

    Rings have equal width and cover 0 (excluded) to H / 2 cycles per frame height. White noise of standard
    deviation s gives log10(s ** 2) in every ring. Power is floored at that of 8-bit rounding noise.

    Raises:
        ValueError: The clip's shape or range is wrong, or `bins` is not between 1 and H // 2.
    """
    return _gathered(RadialSpectrum, clip, bins=bins).levels()


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
    return _gathered(BandMatch, a, b, band=(low_cycles, high_cycles)).correlation()


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
    return _gathered(BandMatch, a, b, band=(low_cycles, high_cycles)).error()


def band_unmendable(a: Clip, b: Clip, low_cycles: float, high_cycles: float) -> float:
    """The part of `band_error` that no gain can mend: 1 − ρ², ρ being the correlation in the band over all frames.

    Times g the clip would have a band error of 1 + g² s² − 2 g s ρ, s being its strength over the truth's; at the best
    g, ρ / s, that is 1 − ρ². A clip that is the truth but too weak or too strong gives 0, so this tells detail that is
    missing or wrong from detail that a sharpening filter would bring out. Direction: lower is better. The sign of ρ is
    lost: an inverted clip gives 0 too.

    Args:
        a: [T, H, W, 3] in [0, 1].
        b: The truth, of the same shape.
        low_cycles: Lower end of the band, cycles per frame height.
        high_cycles: Upper end, excluded.

    Returns:
        Between 0 and 1, at most `band_error`; 1 if `a` has nothing in the band, NaN if the truth has nothing there.

    Raises:
        ValueError: As :func:`band_correlation`.

    Source: own; one minus the coefficient of determination of a linear fit.
    """
    return _gathered(BandMatch, a, b, band=(low_cycles, high_cycles)).unmendable()


def psnr(a: Clip, b: Clip) -> float:
    """Peak signal-to-noise ratio over the whole clip, dB; infinite for identical clips.

    Direction: higher is better, `b` being the truth; it prefers blur to misplaced detail.

    Raises:
        ValueError: The shapes differ, or a clip's range is wrong.
    """
    return _gathered(SquaredError, a, b).psnr()


def flicker(clip: Clip, mask: Mask | None = None) -> float:
    """Mean absolute change of a pixel's RGB from frame to frame, where the scene is static.

    Direction: lower is better.

    Args:
        clip: [T, H, W, 3] in [0, 1], T >= 2.
        mask: [T, H, W] or [H, W] in [0, 1], how static a pixel is; None: everywhere. A change counts by the product
            of both frames' weights.

    Returns:
        On the scale of pixel values; NaN if nothing is static.

    Raises:
        ValueError: A shape or range is wrong, or there are too few frames.

    Source: VBench's temporal_flickering (Huang et al., CVPR 2024), which is 1 minus this without a mask.
    """
    return _gathered(Changes, clip, mask=mask, fewest=2).flicker()


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
    return _gathered(Changes, clip, mask=mask, fewest=3).first_jump()


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
    return _gathered(TemporalNoise, clip, mask=mask, fewest=2).sigma()


def _gathered(
    part: type[Gathered],
    clip: Clip,
    truth: Clip | None = None,
    mask: Mask | None = None,
    fewest: int = 1,
    **setting: Any,
) -> Gathered:
    """A part (see `gathering`) that has seen a whole clip, beside the truth or under a mask [T, H, W] or [H, W]."""
    frames = checked(clip)
    if truth is not None:
        require_same_shape(clip, truth)
        truth = checked(truth)
    if short := too_few(fewest, len(frames)):
        raise ValueError(short)
    static = None if mask is None else _static(mask, frames.shape[:3])
    grid = Grid(*frames.shape[1:3])
    made = part(Setting(grid, **setting))
    for index, frame in enumerate(frames):
        beside = None if truth is None else Frame(truth[index], grid)
        made.add(Step(Frame(frame, grid), beside, static=None if static is None else static[index]))
    return made


def _static(mask: Mask, shape: tuple[int, ...]) -> Mask:
    """The mask of each frame, [T, H, W]."""
    weights = np.asarray(mask, np.float32)
    if weights.shape not in (shape, shape[1:]):
        raise ValueError(f"the mask is {list(weights.shape)}, and the clip's frames are {list(shape)}")
    if not (weights.min() >= 0 and weights.max() <= 1):
        raise ValueError(f"a mask lies in [0, 1]; this one goes from {weights.min():.4g} to {weights.max():.4g}")
    return np.broadcast_to(weights, shape)
