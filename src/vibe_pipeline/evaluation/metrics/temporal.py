"""What measures keep of how a clip changes from frame to frame; see `gathering.py`."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vibe_pipeline.evaluation.metrics.gathering import Setting, Step, Weights
from vibe_pipeline.evaluation.metrics.pixels import Frame, strips

MAD_TO_SIGMA = 1.4826  # of a normal distribution
NOISE_STEP = 2.0**-16
"""Width of a class of the residual's distribution: it moves `residual_noise` by at most 1.4e-6."""
# A second difference along both axes of a difference of values in [0, 1] lies in ±16; a little more for rounding.
NOISE_CLASSES = round(17 / NOISE_STEP)


class StaticShare:
    """How much of the frame counts as static, mean over frames."""

    def __init__(self, setting: Setting):
        self._shares: list[float] = []

    def add(self, step: Step) -> None:
        """How much of it is static."""
        self._shares.append(1.0 if step.static is None else float(np.mean(step.static)))

    def mean(self) -> float:
        """Between 0 and 1."""
        return float(np.mean(self._shares))


class Changes:
    """Mean absolute change of RGB from frame to frame, weighted by how static a pixel is in both."""

    def __init__(self, setting: Setting):
        self._before: Step | None = None
        self._totals: list[tuple[float, float]] = []

    def add(self, step: Step) -> None:
        """Its change since the frame before."""
        # Only the stored picture is kept, not what others computed from it.
        before, self._before = self._before, Step(Frame(step.frame.raw, step.frame.grid), static=step.static)
        if before is not None:
            parts = [self._change(before, step, rows) for rows in strips(len(step.frame.raw))]
            self._totals.append((math.fsum(p[0] for p in parts), math.fsum(p[1] for p in parts)))

    def flicker(self) -> float:
        """Over all steps; NaN if nothing is static."""
        change, weight = np.sum(self._totals, axis=0)
        return float(change / weight) if weight else math.nan

    def first_jump(self) -> float:
        """The first step's mean change minus the median of the later steps'; steps without static pixels are left out.

        NaN if there is nothing static at the first step or at every later one.
        """
        steps = [change / weight if weight else math.nan for change, weight in self._totals]
        later = [value for value in steps[1:] if not math.isnan(value)]
        return float(steps[0] - np.median(later)) if later else math.nan

    @staticmethod
    def _change(before: Step, step: Step, rows: slice) -> tuple[float, float]:
        difference = step.frame.strip(rows) - before.frame.strip(rows)
        change = np.abs(difference, out=difference) @ np.full(3, 1 / 3, difference.dtype)
        if before.static is None or step.static is None:
            return float(change.sum(dtype=np.float64)), float(change.size)
        weight = before.static[rows] * step.static[rows]
        return float(np.sum(change * weight, dtype=np.float64)), float(weight.sum(dtype=np.float64))


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
