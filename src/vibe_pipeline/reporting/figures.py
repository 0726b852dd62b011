"""The plots. Each function returns a matplotlib Figure; `to_svg` makes it follow the page's colours.

Figures are built without pyplot, so no global state and no display are involved.
"""

import functools
import io
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ParamSpec

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vibe_pipeline.experiment.adapters import AdapterParams
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.reporting.cost import Cost
from vibe_pipeline.reporting.glossary import ARROWS, DIRECTION_WORDS, number, words
from vibe_pipeline.reporting.tables import arm_label, arm_order, bound_of, is_scored

INK, MUTED, RULE, ACCENT = "#1c1d20", "#5f646d", "#d9dadd", "#1d5c99"
SERIES = ("#1d6fb8", "#c4472b", "#2c8558", "#8a57b8", "#a5730a", "#14808c", "#bb4a83", "#6b7280")
DASHES = ("-", (0, (5, 1.6)), (0, (1.4, 1.4)))
P = ParamSpec("P")

_VARIABLES = (
    (INK, "currentColor"),
    (MUTED, "var(--muted)"),
    (RULE, "var(--rule)"),
    (ACCENT, "var(--accent)"),
    *((colour, f"var(--s{i + 1})") for i, colour in enumerate(SERIES)),
)
_STYLE = (
    ("font.size", 8.5),
    ("text.color", INK),
    ("axes.edgecolor", RULE),
    ("axes.labelcolor", MUTED),
    ("axes.titlesize", 9.5),
    ("axes.titlelocation", "left"),
    ("axes.titlecolor", INK),
    ("axes.spines.top", False),
    ("axes.spines.right", False),
    ("xtick.color", MUTED),
    ("ytick.color", MUTED),
    ("grid.color", RULE),
    ("grid.linewidth", 0.6),
    ("figure.facecolor", "none"),
    ("axes.facecolor", "none"),
    ("legend.frameon", False),
)


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw under the page's style; matplotlib's own settings stay as they were."""

    @functools.wraps(draw)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.rc_context(dict(_STYLE)):
            return draw(*args, **kwargs)

    return wrapped


def new_axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


@styled
def metric_figure(
    table: pd.DataFrame, metric: str, arms: Mapping[str, ArmParams], references: Collection[str]
) -> Figure:
    """Dot and interval of one metric across arms; the dashed line marks the reference arm, where there is one.

    Args:
        table: The ablation table.
        metric: Which metric.
        arms: Declared arms, for labels and order.
        references: The arms differences are taken to.
    """
    rows = table[table["metric"] == metric]
    order = arm_order(rows["arm"].unique().tolist(), arms)[::-1]
    direction = str(rows["direction"].iloc[0]) if len(rows) else "none"
    figure, axes = new_axes(3.9, 0.75 + 0.235 * max(len(order), 1))
    found = rows[is_scored(rows)].set_index("arm")
    if len(references) == 1 and set(references) <= set(found.index):
        axes.axvline(found.loc[next(iter(references)), "mean"], color=RULE, linestyle="--", linewidth=1, zorder=0)
    for height, arm in enumerate(order):
        if arm in found.index:
            _dot(axes, found.loc[arm], height, arm in references, bound_of(arm, arms) is not None)
        else:
            status = str(rows.loc[rows["arm"] == arm, "status"].iloc[0])
            at = axes.get_yaxis_transform()
            axes.text(0.02, height, status, transform=at, va="center", color=MUTED, style="italic")
    axes.set_yticks(range(len(order)), [arm_label(a, arms) for a in order])
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.locator_params(axis="x", nbins=3)  # four small numbers run into each other
    axes.grid(axis="x", zorder=0)
    axes.set_axisbelow(True)
    axes.set_ylim(-0.6, len(order) - 0.4)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(DIRECTION_WORDS.get(direction, direction))
    title = f"{words(metric).label} {ARROWS.get(direction, '')}".strip()
    figure.suptitle(title, x=0.01, ha="left", size=10, weight="bold")
    return figure


def _dot(axes: Axes, row: pd.Series, height: int, is_reference: bool, is_bound: bool) -> None:
    colour = ACCENT if is_reference else MUTED if is_bound else INK
    axes.plot([row["ci_low"], row["ci_high"]], [height, height], color=colour, linewidth=1.6, solid_capstyle="butt")
    marker, size = ("D", 4.5) if is_bound else ("o", 5.5)
    face = "none" if is_bound else colour
    axes.plot([row["mean"]], [height], marker, color=colour, markerfacecolor=face, markersize=size)


@styled
def loss_figure(losses: pd.DataFrame, stage: str, adapters: Mapping[str, AdapterParams]) -> Figure:
    """Loss over steps for each adapter of a stage: the raw values faint, a running mean over them."""
    figure, axes = new_axes(4.6, 3.2)
    rows = losses[losses["stage"] == stage]
    for i, (name, group) in enumerate(rows.groupby("adapter", sort=False)):
        group = group.sort_values("step")
        colour, dash = SERIES[i % len(SERIES)], DASHES[i // len(SERIES) % len(DASHES)]
        smooth = group["loss"].ewm(span=max(2, len(group) // 10)).mean()
        label = adapters[name].label if name in adapters else str(name)
        axes.plot(group["step"], group["loss"], color=colour, alpha=0.25, linewidth=0.8)
        axes.plot(group["step"], smooth, color=colour, linestyle=dash, linewidth=1.5, label=label)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.grid(axis="y")
    add_legend(figure, axes)
    return figure


@styled
def spectrum_figure(
    spectra: pd.DataFrame, arms: Mapping[str, ArmParams], band: tuple[float, float] | None = None
) -> Figure:
    """Mean radial power spectrum per arm, log scale, with the fine band marked."""
    figure, axes = new_axes(4.7, 3.9)
    if band:
        axes.axvspan(*band, color=RULE, alpha=0.45, linewidth=0, zorder=0)
    coloured = 0
    for arm in arm_order(spectra["arm"].unique().tolist(), arms):
        rows = spectra[(spectra["arm"] == arm) & (spectra["power"] > 0)].sort_values("cycles")
        look: dict[str, Any]
        if bound := bound_of(arm, arms):
            look = {"color": INK, "linewidth": 2.0, "linestyle": "-" if bound == "ceiling" else (0, (1, 1.5))}
        else:
            look = {"color": SERIES[coloured % len(SERIES)], "linestyle": DASHES[coloured // len(SERIES) % len(DASHES)]}
            coloured += 1
        axes.plot(rows["cycles"], rows["power"], **({"linewidth": 1.4} | look), label=arm_label(arm, arms))
    axes.set_yscale("log")
    axes.set_xlabel("cycles per frame height" + (" (shaded: the fine band)" if band else ""))
    axes.set_ylabel("power")
    axes.grid(axis="y")
    add_legend(figure, axes)
    return figure


@styled
def cost_figure(table: pd.DataFrame, cost: Cost, metric: str, arms: Mapping[str, ArmParams]) -> Figure:
    """Quality against cost: one metric over the median cost of a clip, a numbered dot per arm.

    Arms that run no model cost next to nothing; they are levels, not points.
    """
    figure, axes = new_axes(4.7, 3.9)
    rows = table[(table["metric"] == metric) & is_scored(table)].set_index("arm")
    costs = cost.medians
    order = arm_order(rows.index.tolist(), arms)
    levels = [a for a in order if bound_of(a, arms)]
    points = [a for a in order if a not in levels and costs.get(a, 0) > 0]
    for i, arm in enumerate(points):
        at, row, colour = costs[arm], rows.loc[arm], SERIES[i % len(SERIES)]
        axes.plot([at, at], [row["ci_low"], row["ci_high"]], color=colour, linewidth=1.3)
        label = f"{i + 1}  {arm_label(arm, arms)}, {number(at)}"
        axes.plot([at], [row["mean"]], "o", color=colour, markersize=6.5, label=label)
        axes.annotate(str(i + 1), (at, row["ci_high"]), textcoords="offset points", xytext=(0, 4), ha="center", size=8)
    for arm in levels:
        dash = "-" if bound_of(arm, arms) == "ceiling" else (0, (1, 1.5))
        axes.axhline(rows.loc[arm, "mean"], color=MUTED, linewidth=1.1, linestyle=dash, label=arm_label(arm, arms))
    direction = str(rows["direction"].iloc[0]) if len(rows) else "none"
    axes.set_ylabel(f"{words(metric).label}, {DIRECTION_WORDS.get(direction, direction)}")
    _cost_axis(axes, [costs[a] for a in points], cost.title)
    add_legend(figure, axes)
    return figure


def _cost_axis(axes: Axes, costs: Sequence[float], title: str) -> None:
    """Cost along x, on a log scale where it spans a factor of ten."""
    log = len(costs) > 1 and max(costs) > 10 * min(costs)
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: number(value))
        axes.xaxis.set_minor_formatter(lambda value, _: "")
    axes.margins(x=0.12, y=0.12)
    axes.set_xlabel(title + (" (log scale)" if log else ""))
    axes.grid(axis="y")


def add_legend(figure: Figure, axes: Axes) -> None:
    """A legend under the plot, in as many columns as the figure is wide enough for; a long one makes it higher."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        columns = max(1, int(figure.get_figwidth() * 17 // max(len(label) + 8 for label in labels)))
        lines = -(-len(labels) // columns)
        figure.set_figheight(figure.get_figheight() + 0.19 * max(0, lines - 4))
        look = {"fontsize": 8, "labelcolor": INK, "handlelength": 2.2}
        figure.legend(handles, labels, loc="outside lower left", ncols=columns, **look)


def to_svg(figure: Figure, name: str, description: str) -> str:
    """A figure as inline SVG that takes its colours from the page and names itself to screen readers.

    Args:
        figure: What to draw.
        name: Unique within the page: element ids are derived from it.
        description: Said in place of the picture.
    """
    buffer = io.StringIO()
    options = dict(_STYLE) | {"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}
    with matplotlib.rc_context(options):
        blank = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=blank, transparent=True)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for colour, variable in _VARIABLES:
        svg = svg.replace(colour, variable)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    svg = re.sub(r"font: ([^;\"]*?)px [^;\"]*", r"font-size: \1px; font-family: inherit", svg)
    width, height = map(float, re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)[0])
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*pt"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*pt"', r"\1", svg, count=1)
    label = description.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    size = f'style="max-width: {width * 96 / 72:.0f}px; aspect-ratio: {width:g} / {height:g}"'
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" {size} ', 1)


def shows_anything(values: pd.Series | np.ndarray) -> bool:
    """Whether there is a finite value to draw."""
    return bool(np.isfinite(np.asarray(values, float)).any()) if len(values) else False
