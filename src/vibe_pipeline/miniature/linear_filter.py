"""The best linear filter from native to target: what any amount of sharpening can bring back, and no more.

Per target frequency, the Wiener filter is one gain on the native spectrum at the frequency it aliases to, fitted on
true pairs by least squares: the best of all linear filters that treat every native pixel alike. Frames are continued
by their mirror image, so that they have no edges and every gain is real.

Source: Wiener, *Extrapolation, Interpolation, and Smoothing of Stationary Time Series* (1949); with the aliases of a
sampled signal as in Unser, "Sampling, 50 years after Shannon", Proc. IEEE 88 (2000), 569.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]


@dataclass(frozen=True)
class LinearFilter:
    """Gains [2H, 2W] of the target's frequencies over the native spectrum; made by :func:`fit_linear_filter`."""

    gains: Array
    native: tuple[int, int]

    def __call__(self, frames: Array) -> Array:
        """Enlarge frames [..., h, w, channels] to [..., H, W, channels], every channel alike; not clipped.

        Raises:
            ValueError: The frames do not have the native size this filter was fitted for.
        """
        if frames.shape[-3:-1] != self.native:
            raise ValueError(f"this filter enlarges frames of {self.native}, not of {frames.shape[-3:-1]}")
        height, width = (n // 2 for n in self.gains.shape)
        planes = np.moveaxis(frames, -1, -3)
        spectrum = _at_aliases(_spectrum(planes), self.gains.shape) * self.gains * (4 * height * width)
        shift = _half_sample(2 * height)[:, None] * _half_sample(2 * width)[None]
        enlarged = np.fft.ifft2(spectrum / shift).real[..., :height, :width]
        return np.moveaxis(enlarged, -3, -1).astype(np.float32)


def fit_linear_filter(pairs: Iterable[tuple[Array, Array]]) -> LinearFilter:
    """Fit on true pairs of frames.

    Args:
        pairs: Native [h, w, channels] and target [H, W, channels] frames of the same scenes, always of the same two
            sizes. Square frames are taken to have no preferred axis, which halves what is to be fitted.

    Raises:
        ValueError: There are no pairs.
    """
    product = power = None
    native = (0, 0)
    for small, large in pairs:
        target = _spectrum(np.moveaxis(large, -1, -3))
        source = _at_aliases(_spectrum(np.moveaxis(small, -1, -3)), target.shape[-2:])
        product = (0 if product is None else product) + (source * target).sum(0)
        power = (0 if power is None else power) + (source * source).sum(0)
        native = (small.shape[0], small.shape[1])
    if product is None or power is None:
        raise ValueError("a linear filter needs pairs of frames to be fitted on; there are none")
    if product.shape[0] == product.shape[1]:
        product, power = product + product.T, power + power.T
    return LinearFilter(product / np.maximum(power, np.finfo(np.float64).tiny), native)


def _half_sample(count: int) -> NDArray[np.complex128]:
    """Refers a spectrum's phase to the frame's corner, half a pixel before the first centre, at either size."""
    return np.exp(-1j * np.pi * np.fft.fftfreq(count))


def _spectrum(planes: Array) -> Array:
    """Spectrum of planes [..., h, w] with their mirror images, [..., 2h, 2w]; real, as the whole is even."""
    planes = np.concatenate([planes, planes[..., ::-1, :]], -2)
    planes = np.concatenate([planes, planes[..., ::-1]], -1)
    height, width = planes.shape[-2:]
    shift = _half_sample(height)[:, None] * _half_sample(width)[None]
    return (np.fft.fft2(planes) * shift).real / (height * width)


def _at_aliases(spectrum: Array, target: tuple[int, ...]) -> Array:
    """The native spectrum [..., 2h, 2w] at each target frequency's alias, [..., 2H, 2W]."""
    for axis, count in zip((-2, -1), target, strict=True):
        size = spectrum.shape[axis]
        wanted = np.rint(np.fft.fftfreq(count) * count).astype(int)
        own = np.rint(np.fft.fftfreq(size) * size).astype(int)[wanted % size]
        # One turn of the native grid away, the half sample's phase is turned by pi.
        sign = np.where((wanted - own) // size % 2, -1.0, 1.0)
        spectrum = np.take(spectrum, wanted % size, axis) * (sign[:, None] if axis == -2 else sign)
    return spectrum
