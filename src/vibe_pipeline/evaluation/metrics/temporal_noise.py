"""The part of `residual_noise`: what changes from frame to frame in a pixel and not in its neighbours."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vibe_pipeline.evaluation.metrics.gathering import Setting, Step, Weights
from vibe_pipeline.evaluation.metrics.pixels import strips

MAD_TO_SIGMA = 1.4826  # of a normal distribution
NOISE_STEP = 2.0**-16
"""Width of a class of the residual's distribution: it moves `residual_noise` by at most 1.4e-6."""
# A second difference along both axes of a difference of values in [0, 1] lies in ±16; a little more for rounding.
NOISE_CLASSES = round(17 / NOISE_STEP)


class TemporalNoise:
    """The distribution of what changes from frame to frame in a pixel and not in its neighbours."""

    def __init__(self, setting: Setting):
        self._before: tuple[NDArray[np.floating], Weights | None] | None = None
        self._counts = np.zeros(2 * NOISE_CLASSES + 1, np.int64)

    def add(self, step: Step) -> None:
        """What is new in it since the frame before, counted by size."""
        luma, static = step.frame.luma, step.static
        before, self._before = self._before, (luma, static)
        if before is None:
            return
        for rows in strips(max(0, len(luma) - 2)):
            halo = slice(rows.start, rows.stop + 2)
            # Second differences over both axes are Immerkaer's kernel.
            residual = np.diff(np.diff(luma[halo] - before[0][halo], n=2, axis=0), n=2, axis=1)
            if before[1] is not None and static is not None:
                residual = residual[_whole_windows((static[halo] >= 0.5) & (before[1][halo] >= 0.5))]
            self._count(residual)

    def sigma(self) -> float:
        """Standard deviation of the noise, robustly; NaN if nothing is static."""
        if not self._counts.any():
            return math.nan
        middle = _twice_median(self._counts)
        # In half classes, as the median may lie between two.
        deviations = np.abs(2 * np.arange(len(self._counts)) - middle)
        half_classes = _twice_median(np.bincount(deviations, self._counts)) / 2
        return MAD_TO_SIGMA * half_classes * NOISE_STEP / 2 / (6 * math.sqrt(2))

    def _count(self, residual: NDArray[np.floating]) -> None:
        if residual.size:
            classes = np.rint(residual * residual.dtype.type(1 / NOISE_STEP)).astype(np.intp).ravel()
            lowest = int(classes.min())
            found = np.bincount(classes - lowest)
            start = NOISE_CLASSES + lowest
            self._counts[start : start + len(found)] += found


def _whole_windows(static: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where all 3x3 pixels are static; a row and a column less on each side."""
    tall = static[:-2] & static[1:-1] & static[2:]
    return tall[:, :-2] & tall[:, 1:-1] & tall[:, 2:]


def _twice_median(counts: NDArray[Any]) -> int:
    """The sum of the two middle values of a distribution over 0, 1, 2, ..."""
    reached, total = np.cumsum(counts), int(counts.sum())
    return int(np.searchsorted(reached, (total + 1) // 2) + np.searchsorted(reached, total // 2 + 1))
