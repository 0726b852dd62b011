"""The measures of a clip's pixels, in one pass over its frames for all entries of the registry."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from vibe_pipeline.evaluation.metrics.gathering import Part, RadialSpectrum, Setting, Step
from vibe_pipeline.evaluation.metrics.pixels import Frame, Grid
from vibe_pipeline.evaluation.metrics.registry import of_kind
from vibe_pipeline.evaluation.metrics.resolution import Measure
from vibe_pipeline.evaluation.metrics.static import StaticMask
from vibe_pipeline.io.score_table import too_few

Picture = NDArray[np.uint8] | NDArray[np.floating]

SPECTRUM_BINS = 48
NAMES = MappingProxyType({"truth": "true render", "native": "native clip"})


@dataclass(frozen=True)
class Beside:
    """What stands beside a clip.

    Attributes:
        static: Where nothing moves.
        native: Frames of the native clip; None: it has none, and what needs it is left out.
        truth: Frames of the true render; None likewise.
        unpaired: Measures of the truth that do not apply, as it shows another scene.
    """

    static: StaticMask
    native: Iterable[Picture] | None = None
    truth: Iterable[Picture] | None = None
    unpaired: tuple[str, ...] = ()

    def applies(self, measure: Measure) -> bool:
        """Whether a score or a reason is expected."""
        return getattr(self, measure.needs or "static") is not None and measure.name not in self.unpaired


@dataclass
class Measured:
    """A clip's scores.

    Attributes:
        values: By measure.
        missing: Of the other measures, why there is no score.
        levels: Log10 power spectrum, [bins], empty if frames are too small for one.
        cycles: The middle of each ring, cycles per frame height.
    """

    values: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    levels: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    cycles: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))


def measures_for(extra: Collection[str] = ()) -> list[Measure]:
    """The entries that are always measured, and those of the others that are named."""
    return [measure for measure in of_kind(Measure) if not measure.asked or measure.name in extra]


def measure_clip(
    frames: Iterable[Picture], band: tuple[float, float], beside: Beside, extra: Collection[str] = ()
) -> Measured:
    """All measures of a clip in one pass; a few frames are in memory, however many there are.

    Args:
        frames: RGB [H, W, 3], bytes or floats in [0, 1], one after another.
        band: Of detail, cycles per frame height.
        beside: What it is compared with, and where it is static.
        extra: Names of measures that are made only where asked for.

    Raises:
        ValueError: There is no frame, or a file cannot be read.
    """
    others = {name: getattr(beside, name) for name in ("truth", "native") if getattr(beside, name) is not None}
    counts = dict.fromkeys(["clip", *others], 0)
    run: _Run | None = None
    for pictures in zip_longest(frames, *others.values()):
        there = {name: picture for name, picture in zip(counts, pictures, strict=True) if picture is not None}
        for name in there:
            counts[name] += 1
        if "clip" in there:
            run = run or _Run(there, band, beside, measures_for(extra))
            run.add(there["clip"], there)
    if run is None:
        raise ValueError("a clip without frames cannot be measured")
    return run.result(counts)


class _Run:
    """The parts of one clip, and why some measures have none."""

    def __init__(
        self, there: Mapping[str, Picture], band: tuple[float, float], beside: Beside, measures: Iterable[Measure]
    ):
        first = there["clip"]
        height, width = first.shape[:2]
        self._setting = Setting(Grid(height, width), band, max(1, min(SPECTRUM_BINS, height // 2)))
        self._native_grid = Grid(*there["native"].shape[:2]) if "native" in there else None
        self._static = beside.static.sized(height, width)
        self._odd_truth = _other_size(first, there.get("truth"))
        self._measures = [m for m in measures if beside.applies(m)]
        self._parts: dict[type[Part], Part] = {}
        problems = {"static": beside.static.problem, "truth": self._odd_truth}
        found = {m.name: problems.get(m.needs) or self._prepare(m.part) for m in self._measures}
        self._reasons = {name: reason for name, reason in found.items() if reason}
        self._prepare(RadialSpectrum)  # the report draws it

    def add(self, picture: Picture, there: Mapping[str, Picture]) -> None:
        """Feed every part."""
        truth, native = None if self._odd_truth else there.get("truth"), there.get("native")
        step = Step(
            Frame(picture, self._setting.grid),
            None if truth is None else Frame(truth, self._setting.grid),
            None if native is None or self._native_grid is None else Frame(native, self._native_grid),
            self._static,
        )
        for part in self._parts.values():
            part.add(step)

    def result(self, counts: Mapping[str, int]) -> Measured:
        """Scores and reasons, now that lengths are known."""
        reasons = {m.name: self._reasons.get(m.name) or _lengths(m, counts) for m in self._measures}
        values = {m.name: m.value(self._parts[m.part]) for m in self._measures if not reasons[m.name]}
        found = Measured(values, {name: reason for name, reason in reasons.items() if reason})
        spectrum = self._parts.get(RadialSpectrum)
        if isinstance(spectrum, RadialSpectrum):
            bins, height = self._setting.bins, self._setting.grid.shape[0]
            found.levels, found.cycles = spectrum.levels(), (np.arange(bins) + 0.5) * height / 2 / bins
        return found

    def _prepare(self, kind: type[Part]) -> str:
        """Make a part unless it is there; why that is impossible, or an empty string."""
        try:
            if kind not in self._parts:
                self._parts[kind] = kind(self._setting)
        except ValueError as error:  # frames too small for what is measured
            return str(error)
        return ""


def _other_size(first: Picture, truth: Picture | None) -> str:
    if truth is None or truth.shape == first.shape:
        return ""
    one, two = ("x".join(map(str, picture.shape[:2])) for picture in (first, truth))
    return f"{one} beside {two} of the true render"


def _lengths(measure: Measure, counts: Mapping[str, int]) -> str:
    """Why the clip's length allows no score, or an empty string."""
    own = counts["clip"]
    if short := too_few(measure.frames, own):
        return short
    if counts.get(measure.needs, own) != own:
        return f"{own} frames beside {counts[measure.needs]} of the {NAMES[measure.needs]}"
    return ""
