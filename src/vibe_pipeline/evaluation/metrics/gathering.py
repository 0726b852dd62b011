"""What measures keep of a clip while its frames go by: sums, so that a clip's length costs no memory.

Here: of each frame by itself; of changes between frames, in `temporal.py`. Each part sees a :class:`Step` per frame,
in order. Several measures may share one part.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vibe_pipeline.evaluation.metrics.pixels import Frame, Grid, strips

Weights = NDArray[np.floating]

# Power of 8-bit rounding noise: below it, two stored clips cannot be told apart.
ROUNDING_POWER = (1 / 255) ** 2 / 12
# Power under which a frame counts as flat: an amplitude of a ten-thousandth of the range.
FLAT_POWER = 1e-8


@dataclass(frozen=True)
class Setting:
    """What parts are made for.

    Attributes:
        grid: Of the clip's frames.
        band: Of detail, cycles per frame height; the upper end is excluded.
        bins: Rings of the spectrum.
    """

    grid: Grid
    band: tuple[float, float] = (0.0, math.inf)
    bins: int = 1


@dataclass(frozen=True)
class Step:
    """One frame of a clip, and what stands beside it.

    Attributes:
        frame: Of the clip.
        truth: The same frame of the true render.
        native: The same frame of the native clip.
        static: How static each pixel is, [H, W] in [0, 1]; None: everywhere fully.
    """

    frame: Frame
    truth: Frame | None = None
    native: Frame | None = None
    static: Weights | None = None


class Part(Protocol):
    """What a measure keeps."""

    def __init__(self, setting: Setting):
        """Empty.

        Raises:
            ValueError: Frames of this size do not have what is measured.
        """

    def add(self, step: Step) -> None:
        """Take the next frame; one without what is needed beside it is passed over."""


class BandShare:
    """Share of the power that lies in the band, of each frame that is not flat."""

    def __init__(self, setting: Setting):
        self._band = setting.grid.band(*setting.band)
        self._shares: list[float] = []

    def add(self, step: Step) -> None:
        """Its share, unless it is flat."""
        power = step.frame.power
        total = float(power[1:].sum(dtype=np.float64))
        if total > FLAT_POWER * math.prod(step.frame.grid.shape):
            self._shares.append(float(power[self._band].sum(dtype=np.float64)) / total)

    def mean(self) -> float:
        """Over frames; NaN if all were flat."""
        return float(np.mean(self._shares)) if self._shares else math.nan


class RadialSpectrum:
    """Mean power in each ring, of the clip and of the truth where there is one."""

    def __init__(self, setting: Setting):
        self._bins, self._ring = setting.bins, setting.grid.rings(setting.bins)
        columns = np.broadcast_to(setting.grid.multiplicity, (setting.grid.shape[0], len(setting.grid.multiplicity)))
        self._count = self._per_ring(columns.ravel())
        self._sums = {False: np.zeros(self._bins), True: np.zeros(self._bins)}
        self._frames = {False: 0, True: 0}

    def add(self, step: Step) -> None:
        """Its power, and the truth's where there is one."""
        for frame in (step.frame, step.truth):
            if frame is not None:
                self._sums[frame is step.truth] += self._per_ring(frame.power)
                self._frames[frame is step.truth] += 1

    def levels(self, truth: bool = False) -> NDArray[np.float64]:
        """Log10 of the mean power, [bins], floored at that of 8-bit rounding noise."""
        return np.log10(np.maximum(self._sums[truth] / (self._count * self._frames[truth]), ROUNDING_POWER))

    def distance(self) -> float:
        """Root mean square difference of the two."""
        return float(np.sqrt(np.mean((self.levels() - self.levels(truth=True)) ** 2)))

    def _per_ring(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        return np.bincount(self._ring, values, self._bins + 1)[: self._bins].astype(np.float64, copy=False)


class BandMatch:
    """What the band holds against the truth's."""

    def __init__(self, setting: Setting):
        self._band = setting.grid.band(*setting.band)
        columns = len(setting.grid.multiplicity)
        self._weight = setting.grid.multiplicity[self._band % columns].astype(np.float64)
        self._floor = FLAT_POWER * float(self._weight.sum())
        self._error = self._power = self._own_power = self._both = 0.0
        self._frames = 0
        self._correlations: list[float] = []

    def add(self, step: Step) -> None:
        """Its band beside the truth's; without a truth it is passed over."""
        if step.truth is None:
            return
        ours, truth = (f.transform.ravel()[self._band].astype(np.complex128) for f in (step.frame, step.truth))
        power, true_power = (self._sum(np.abs(values) ** 2) for values in (ours, truth))
        self._error += self._sum(np.abs(ours - truth) ** 2)
        self._power += true_power
        self._own_power += power
        self._frames += 1
        both = self._sum((ours * truth.conj()).real)
        self._both += both
        if true_power > self._floor:
            found = power > self._floor
            self._correlations.append(both / math.sqrt(power * true_power) if found else 0.0)

    def error(self) -> float:
        """Power of the difference over the truth's, over all frames; NaN if the truth has nothing there."""
        return self._error / self._power if self._power > self._floor * self._frames else math.nan

    def unmendable(self) -> float:
        """The least that `error` can be of the clip times any number: 1 − ρ², ρ over all frames together."""
        floor = self._floor * self._frames
        if self._power <= floor:
            return math.nan
        if self._own_power <= floor:
            return 1.0
        return max(0.0, 1 - self._both**2 / (self._own_power * self._power))

    def correlation(self) -> float:
        """Mean over the frames in which the truth has something there; NaN if there are none."""
        return float(np.mean(self._correlations)) if self._correlations else math.nan

    def _sum(self, values: NDArray[np.float64]) -> float:
        return float(np.dot(self._weight, values))


class _MeanSquare:
    """Squared differences of pictures."""

    def __init__(self, setting: Setting):
        self._sum, self._count = 0.0, 0

    def psnr(self) -> float:
        """Decibels; infinite if there is no difference."""
        error = self._sum / self._count
        return -10 * math.log10(error) if error > 0 else math.inf

    def _take(self, difference: NDArray[np.floating]) -> None:
        self._count += difference.size
        self._sum += float(np.sum(np.square(difference, out=difference), dtype=np.float64))


class SquaredError(_MeanSquare):
    """Of all pixels to the truth."""

    def add(self, step: Step) -> None:
        """Its difference to the truth; without one it is passed over."""
        if step.truth is not None:
            for rows in strips(len(step.frame.raw)):
                self._take(step.frame.strip(rows) - step.truth.strip(rows))


class NativeError(_MeanSquare):
    """Of the shrunk clip to the native one."""

    def add(self, step: Step) -> None:
        """Its difference to the native frame, shrunk; without one it is passed over."""
        if step.native is None:
            return
        import torch  # planning reads the entries, and has no use for it

        from vibe_pipeline.images.resize import shrink

        whole = torch.from_numpy(np.ascontiguousarray(step.frame.strip(slice(None)))).permute(2, 0, 1)
        small = shrink(whole[None, :, None], *step.native.grid.shape)[0, :, 0].permute(1, 2, 0).numpy()
        self._take(small - step.native.strip(slice(None)))
