"""The best linear filter from native to target: what any amount of sharpening can bring back, and no more.

Per target frequency, the Wiener filter is one gain on the native spectrum at the frequency it aliases to, fitted on
true pairs by least squares: the best of all linear filters that treat every native pixel alike. Frames are continued
by their mirror image, so that they have no edges and every gain is real: the spectra are cosine transforms (DCT-II).

Source: Wiener, *Extrapolation, Interpolation, and Smoothing of Stationary Time Series* (1949); with the aliases of a
sampled signal as in Unser, "Sampling, 50 years after Shannon", Proc. IEEE 88 (2000), 569.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy.fft import dctn, idctn

Array = NDArray[np.floating]
Size = tuple[int, int]


@dataclass(frozen=True)
class LinearFilter:
    """Gains [H, W] of the target's frequencies over the native spectrum; made by :func:`fit_linear_filter`."""

    gains: Array
    native: Size

    def __call__(self, frames: Array) -> Array:
        """Enlarge frames [..., h, w, channels] to [..., H, W, channels], every channel alike; not clipped, 32 bit.

        Raises:
            ValueError: The frames do not have the native size this filter is for.
        """
        if frames.shape[-3:-1] != self.native:
            raise ValueError(f"this filter enlarges frames of {self.native}, not of {frames.shape[-3:-1]}")
        spectrum = _at_aliases(_spectrum(np.moveaxis(frames, -1, -3)), self.gains.shape) * self.gains
        enlarged = idctn(spectrum, axes=(-2, -1), norm="forward", overwrite_x=True)
        return np.moveaxis(enlarged, -3, -1).astype(np.float32)

    def at(self, native: Size, target: Size) -> Self:
        """The filter for frames of another size, enlarged as much: gains interpolated over frequency.

        Args:
            native: Height and width of the frames.
            target: Of what they become.

        Raises:
            ValueError: That is another enlargement than the one this was fitted for.
        """
        fitted: Size = self.gains.shape[0], self.gains.shape[1]
        if (native, target) == (self.native, fitted):
            return self
        if any(n * f != t * s for n, t, s, f in zip(native, target, self.native, fitted, strict=True)):
            raise ValueError(f"fitted from {self.native} to {fitted}, this filter cannot enlarge {native} to {target}")
        gains = self.gains
        for axis, (size, small) in enumerate(zip(target, self.native, strict=True)):
            gains = _interpolated(gains, axis, size, small)
        return type(self)(gains.astype(np.float32), native)

    def save(self, path: Path) -> None:
        """Write it as safetensors, 32 bit."""
        save_file({"gains": self.gains.astype(np.float32), "native": np.array(self.native)}, path)

    @classmethod
    def read(cls, path: Path) -> Self:
        """What :meth:`save` wrote.

        Raises:
            ValueError: The file is damaged or holds something else.
        """
        try:
            content = load_file(path)
            height, width = content["native"].tolist()
            return cls(content["gains"], (height, width))
        except (SafetensorError, KeyError, ValueError) as error:
            raise ValueError(f"{path} does not hold a linear filter ({error}); delete it and run again") from error


def fit_linear_filter(pairs: Iterable[tuple[Array, Array]]) -> LinearFilter:
    """Fit on true pairs of frames.

    Args:
        pairs: Native [..., h, w, channels] and target [..., H, W, channels] frames of the same scenes, always of the
            same two sizes. Square frames are taken to have no preferred axis, which halves what is to be fitted.

    Raises:
        ValueError: There are no pairs.
    """
    product = power = None
    native = (0, 0)
    for small, large in pairs:
        target = _spectrum(np.moveaxis(large, -1, -3))
        source = _at_aliases(_spectrum(np.moveaxis(small, -1, -3)), target.shape[-2:])
        others = tuple(range(target.ndim - 2))
        product = (0 if product is None else product) + (source * target).sum(others)
        power = (0 if power is None else power) + (source * source).sum(others)
        native = (small.shape[-3], small.shape[-2])
    if product is None or power is None:
        raise ValueError("a linear filter needs pairs of frames to be fitted on; there are none")
    if product.shape[0] == product.shape[1]:
        product, power = product + product.T, power + power.T
    return LinearFilter(product / np.maximum(power, np.finfo(np.float64).tiny), native)


def _spectrum(planes: Array) -> Array:
    """Cosine spectrum of planes [..., h, w]: the amplitudes are the same at every size."""
    return dctn(planes, axes=(-2, -1), norm="forward")


def _aliases(size: int, target: int) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """Of every target frequency of an axis, the native one that it looks like, and its sign; 0 where there is none.

    One turn of the native grid away, the half sample between a frame's corner and its first centre turns the phase by
    pi. At the native Nyquist frequency itself a mirrored frame has nothing.
    """
    wanted = np.arange(target)
    turns = np.rint(wanted / (2 * size)).astype(np.int64)
    own = np.abs(wanted - 2 * size * turns)
    return np.minimum(own, size - 1), np.where(own == size, 0, 1 - 2 * (turns % 2))


def _at_aliases(spectrum: Array, target: tuple[int, ...]) -> Array:
    """The native spectrum [..., h, w] at each target frequency's alias, [..., H, W]."""
    for axis, count in zip((-2, -1), target, strict=True):
        index, sign = _aliases(spectrum.shape[axis], count)
        sign = sign.astype(spectrum.dtype)
        spectrum = np.take(spectrum, index, axis) * (sign[:, None] if axis == -2 else sign)
    return spectrum


def _interpolated(gains: Array, axis: int, size: int, native: int) -> Array:
    """Gains of an axis at as many frequencies as `size`; where the fit has none, its neighbours' are taken."""
    count = gains.shape[axis]
    known = np.flatnonzero(_aliases(native, count)[1])
    at = np.minimum(np.arange(size) * count / size, known[-1])
    after = np.clip(np.searchsorted(known, at), 1, len(known) - 1)
    low, high = known[after - 1], known[after]
    share = (at - low) / (high - low)
    share = share[:, None] if axis == 0 else share
    return (1 - share) * np.take(gains, low, axis) + share * np.take(gains, high, axis)
