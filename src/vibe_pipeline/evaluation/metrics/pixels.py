"""Clips as arrays, float RGB [T, H, W, 3] in [0, 1], looked at before they are measured; frames, one by one."""

import math
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Clip = NDArray[np.floating]

LUMA = (0.2126, 0.7152, 0.0722)


def checked(clip: Clip) -> Clip:
    """The clip, after a look at its shape, type and range.

    Raises:
        ValueError: It is not [T, H, W, 3] of floats in [0, 1]; names what was found.
    """
    array = np.asarray(clip)
    if array.ndim != 4 or array.shape[-1] != 3 or 0 in array.shape:
        raise ValueError(f"a clip is [frames, height, width, 3]; this one is {list(array.shape)}")
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"a clip holds floats in [0, 1]; this one holds {array.dtype}: divide bytes by 255")
    low, high = float(array.min()), float(array.max())
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # NaN fails too
        raise ValueError(f"a clip lies in [0, 1]; this one goes from {low:.4g} to {high:.4g}")
    return array


def require_same_shape(a: Clip, b: Clip) -> None:
    """Raises ValueError naming both shapes if they differ."""
    if np.shape(a) != np.shape(b):
        raise ValueError(f"the clips differ in shape: {list(np.shape(a))} and {list(np.shape(b))}")


class Grid:
    """Window and frequencies of frames of one size, [H, W / 2 + 1] as a real transform gives them, in cycles per frame
    height; computed once for a clip. Each kept coefficient stands for itself and its mirror image, where it has one."""

    def __init__(self, height: int, width: int):
        self.shape = (height, width)
        # Two more samples, so that no weight at the edges is zero.
        self.window = np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1]
        self.norm = math.sqrt(np.sum(self.window[0] ** 2) * np.sum(self.window[1] ** 2))
        self._radius = height * np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
        mirrored = (np.arange(width // 2 + 1) > 0) & (2 * np.arange(width // 2 + 1) != width)
        self.multiplicity = np.where(mirrored, 2, 1).astype(np.float32)

    def band(self, low: float, high: float) -> NDArray[np.intp]:
        """Flat indices of the coefficients with low <= frequency < high, without the mean.

        Raises:
            ValueError: There are none.
        """
        found = np.flatnonzero((self._radius >= low) & (self._radius < high) & (self._radius > 0))
        if not len(found):
            height, width = self.shape
            raise ValueError(f"a {height}x{width} frame has no frequency from {low} to {high} cycles per height")
        return found

    def rings(self, bins: int) -> NDArray[np.intp]:
        """The ring of each coefficient, flat: of equal width up to H / 2; `bins` for the mean and the corners beyond.

        Raises:
            ValueError: `bins` is not between 1 and H // 2.
        """
        height = self.shape[0]
        if not 1 <= bins <= height // 2:
            raise ValueError(f"bins = {bins}: a frame {height} pixels high has between 1 and {height // 2} rings")
        # Rings are closed above, so that each holds a whole frequency; the margin absorbs rounding.
        ring = np.ceil(self._radius / (height / 2) * bins - 1e-9).astype(np.intp) - 1
        return np.where((ring < 0) | (ring >= bins), bins, ring).ravel()


class Frame:
    """One RGB frame [H, W, 3], bytes or floats in [0, 1], and what measures share of it.

    Luminance and transform are computed when first asked for, and once. The full picture is turned into floats only in
    strips, as a 4K frame of floats is 100 MB.
    """

    def __init__(self, raw: NDArray[np.uint8] | NDArray[np.floating], grid: Grid):
        self.raw = raw
        self.grid = grid

    def strip(self, rows: slice) -> NDArray[np.floating]:
        """Rows of the picture in [0, 1]."""
        part: Any = self.raw[rows]
        if part.dtype != np.uint8:
            return part
        floats = part.astype(np.float32)
        return np.divide(floats, np.float32(255), out=floats)

    @cached_property
    def luma(self) -> NDArray[np.floating]:
        """Rec. 709 luminance, [H, W]."""
        weights = np.asarray(LUMA, self.strip(slice(0, 1)).dtype)
        return np.concatenate([self.strip(rows) @ weights for rows in strips(len(self.raw))])

    @cached_property
    def transform(self) -> NDArray[np.complexfloating]:
        """Real Fourier transform of the luminance under a Hann window, mean taken out, [H, W / 2 + 1].

        White noise of deviation s has power s ** 2. The window keeps the frame's edges from leaking everywhere.
        """
        import scipy.fft  # planning reads the entries, and has no use for it

        down, across = (side.astype(self.luma.dtype) for side in self.grid.window)
        mean = float(down @ (self.luma @ across)) / float(np.sum(down) * np.sum(across))
        windowed = self.luma - self.luma.dtype.type(mean)
        windowed *= (down / self.luma.dtype.type(self.grid.norm))[:, None]
        windowed *= across
        return scipy.fft.rfft2(windowed, overwrite_x=True)

    @cached_property
    def power(self) -> NDArray[np.floating]:
        """Power of each coefficient and its mirror image, flat."""
        power = np.square(self.transform.real)
        power += np.square(self.transform.imag)
        power *= self.grid.multiplicity
        return power.ravel()


def strips(height: int, rows: int = 64) -> Iterator[slice]:
    """Rows 0 to `height`, a few at a time."""
    return (slice(start, min(start + rows, height)) for start in range(0, height, rows))
