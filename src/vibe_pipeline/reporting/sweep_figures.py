"""Score and cost against each swept value: one small panel a metric, one line for each setting of the other fields."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vibe_pipeline.evaluation.pooling import variants_of
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.sweep_names import label_with, short_fields, shown
from vibe_pipeline.reporting.cost import Cost
from vibe_pipeline.reporting.figures import DASHES, SERIES, add_legend, new_axes, styled
from vibe_pipeline.reporting.glossary import ARROWS, DIRECTION_WORDS, number, words
from vibe_pipeline.reporting.tables import is_scored

WIDE_RANGE = 20
"""Positive values that span this factor go on a log axis."""


@dataclass(frozen=True)
class Sweep:
    """One swept field of one row: `lines` are (what else is set, {value: arm}), values in order."""

    title: str
    field: str
    values: tuple[Any, ...]
    lines: tuple[tuple[str, Mapping[Any, str]], ...]


@dataclass(frozen=True)
class Point:
    """What one line shows at one value of the swept field: `at` is its place in the sweep's values."""

    at: int
    middle: float
    low: float
    high: float


@dataclass(frozen=True)
class Panel:
    """One metric, or the cost, over the swept values."""

    sweep: Sweep
    title: str
    note: str
    lines: tuple[tuple[str, tuple[Point, ...]], ...]
    caption: str

    @property
    def alt(self) -> str:
        """The figures in words."""
        said = []
        for name, points in self.lines:
            values = "; ".join(
                f"{shown(self.sweep.values[p.at])}: {number(p.middle)} [{number(p.low)}, {number(p.high)}]"
                for p in points
            )
            said.append(f"{name}: {values}" if name else values)
        return f"{self.sweep.title}: {self.title}. {'. '.join(said)}."


def sweeps_of(arms: Mapping[str, ArmParams]) -> Iterator[Sweep]:
    """Every swept field with at least two values, training seeds aside; `arms` are pooled."""
    for family in dict.fromkeys(origin.family for arm in arms.values() for origin in arm.origins if origin.family):
        variants = {name: origin.swept for name, origin in variants_of(family, arms)}
        base = next((arms[n].label.removesuffix(label_with("", swept)) for n, swept in variants.items()), family)
        heads = short_fields({path: None for swept in variants.values() for path in swept})
        for path, head in heads.items():
            lines: dict[str, dict[Any, str]] = {}
            for name, swept in variants.items():
                if path in swept:
                    rest = {heads[k].replace("_", " "): v for k, v in swept.items() if k != path}
                    line = ", ".join(f"{k} {shown(v)}" for k, v in rest.items())
                    lines.setdefault(line, {})[shown(swept[path])] = name
            found = {shown(swept[path]): swept[path] for swept in variants.values() if path in swept}
            if len(found) > 1:
                words_ = head.replace("_", " ")
                ordered = _ordered(list(found.values()))
                yield Sweep(f"{base}: {words_}", words_, ordered, tuple(lines.items()))


def _ordered(values: list[Any]) -> tuple[Any, ...]:
    return tuple(sorted(values)) if _numeric(values) else tuple(values)


def _numeric(values: Sequence[Any]) -> bool:
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def panels(sweep: Sweep, table: pd.DataFrame, cost: Cost | None, metrics: Sequence[str]) -> Iterator[Panel]:
    """A panel for each of the metrics that at least two of the sweep's arms were scored on, then one for cost."""
    rows = table[is_scored(table)] if len(table) else table
    for metric in metrics:
        found = rows[rows["metric"] == metric] if len(rows) else rows
        scores = {r.arm: (r.mean, r.ci_low, r.ci_high) for r in found.itertuples()}
        direction = str(found["direction"].iloc[0]) if len(found) else "none"
        title = f"{words(metric).label} {ARROWS.get(direction, '')}".strip()
        yield from _panel(sweep, title, DIRECTION_WORDS.get(direction, ""), scores, "")
    if cost is not None:
        spread = cost.clips.groupby("arm")["cost"].quantile([0.5, 0.25, 0.75]).unstack()
        costs = {arm: (row[0.5], row[0.25], row[0.75]) for arm, row in spread.iterrows()}
        caption = f"Median; bars: the middle half of the clips. {cost.note}"
        for panel in _panel(sweep, cost.title.capitalize(), "", costs, caption):
            if len({point.middle for _, points in panel.lines for point in points}) > 1:
                yield panel


def _panel(
    sweep: Sweep, title: str, note: str, found: Mapping[str, tuple[float, float, float]], caption: str
) -> Iterator[Panel]:
    lines = []
    for name, arms in sweep.lines:
        at = {shown(value): i for i, value in enumerate(sweep.values)}
        points = [Point(at[value], *found[arm]) for value, arm in arms.items() if arm in found]
        if points:
            lines.append((name, tuple(sorted(points, key=lambda p: p.at))))
    if len({point.at for _, points in lines for point in points}) > 1:
        yield Panel(sweep, title, note, tuple(lines), caption)


@styled
def panel_figure(panel: Panel) -> Figure:
    """Dots with intervals over the swept values, joined where the values are numbers."""
    figure, axes = new_axes(3.9, 2.5 + 0.16 * len(panel.lines) * bool(panel.lines[0][0]))
    values = panel.sweep.values
    numeric = _numeric(values)
    places = [float(v) for v in values] if numeric else list(map(float, range(len(values))))
    for i, (name, points) in enumerate(panel.lines):
        at = [places[p.at] for p in points]
        middle = [p.middle for p in points]
        bars = [[p.middle - p.low for p in points], [p.high - p.middle for p in points]]
        dash = DASHES[i // len(SERIES) % len(DASHES)] if numeric else "none"
        look: dict[str, Any] = {
            "color": SERIES[i % len(SERIES)],
            "linestyle": dash,
            "linewidth": 1.4,
            "elinewidth": 1.3,
        }
        axes.errorbar(at, middle, bars, marker="o", markersize=5, capsize=2.5, label=name, **look)
    _value_axis(axes, places, [shown(v) for v in values], numeric)
    axes.set_xlabel(panel.sweep.field)
    axes.set_ylabel(panel.note)
    axes.grid(axis="y")
    figure.suptitle(panel.title, x=0.01, ha="left", size=10, weight="bold")
    if panel.lines[0][0]:
        add_legend(figure, axes)
    return figure


def _value_axis(axes: Axes, places: list[float], labels: list[str], numeric: bool) -> None:
    if numeric and min(places) > 0 and max(places) > WIDE_RANGE * min(places):
        axes.set_xscale("log")
        axes.minorticks_off()
    axes.set_xticks(places, labels)
    axes.margins(x=0.12, y=0.12)
    axes.locator_params(axis="y", nbins=5)
