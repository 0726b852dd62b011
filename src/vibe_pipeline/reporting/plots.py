"""The page's plots: which are drawn, what is said under each, and what is not plotted and why."""

from dataclasses import dataclass

import pandas as pd

from vibe_pipeline.reporting import figures, first, sweep_figures, tables
from vibe_pipeline.reporting.cost import Cost, cost_of
from vibe_pipeline.reporting.glossary import number, words
from vibe_pipeline.reporting.report_inputs import ReportInputs


@dataclass(frozen=True)
class Plot:
    """An inline SVG and the sentence under it."""

    svg: str
    caption: str


def metric_plots(inputs: ReportInputs) -> tuple[list[Plot], str]:
    """A plot for each metric on which arms differ, and a line on the others: all their dots would lie on one place."""
    plots: list[Plot] = []
    alike: list[str] = []
    if inputs.table.empty:
        return plots, ""
    rows = inputs.table[tables.is_scored(inputs.table)]
    for i, metric in enumerate(m for m in tables.metric_order(inputs.table) if m in set(rows["metric"])):
        known, means = words(metric), rows.loc[rows["metric"] == metric, "mean"]
        if means.nunique() < 2:
            alike.append(f"{known.label} ({number(float(means.iloc[0]))})")
            continue
        figure = figures.metric_figure(inputs.table, metric, inputs.arms, inputs.reference_arms)
        description = f"{known.label} of each arm with its interval; the figures are in the table above."
        plots.append(Plot(figures.to_svg(figure, f"metric{i}", description), known.explanation))
    return plots, f"Not plotted, as every arm that was scored has the same mean: {', '.join(alike)}." if alike else ""


def _cost(inputs: ReportInputs) -> Cost | None:
    return cost_of(inputs.clips, inputs.arms, inputs.provenance.get("device") == "cpu")


def sweep_plots(inputs: ReportInputs) -> list[tuple[str, list[Plot]]]:
    """For every swept field a title and its panels: the claims' measures, then cost."""
    metrics = list(dict.fromkeys(asked.metric for claim in inputs.claims for asked in claim.measures))
    groups = []
    for i, sweep in enumerate(sweep_figures.sweeps_of(inputs.arms)):
        plots = [
            Plot(figures.to_svg(sweep_figures.panel_figure(panel), f"sweep{i}-{j}", panel.alt), panel.caption)
            for j, panel in enumerate(sweep_figures.panels(sweep, inputs.table, _cost(inputs), metrics))
        ]
        if plots:
            groups.append((f"{sweep.title}", plots))
    return groups


def overview_plots(inputs: ReportInputs) -> tuple[list[Plot], str]:
    """Spectra and cost, and a line on the cost where it is the same for all."""
    plots = []
    if not inputs.spectra.empty and figures.shows_anything(inputs.spectra["power"]):
        figure = figures.spectrum_figure(inputs.spectra, inputs.arms, inputs.band)
        caption = (
            "Mean radial power spectrum. The fine band lies above what the native clip holds; power beyond the true"
        )
        caption += " render's there is noise or false detail."
        plots.append(Plot(figures.to_svg(figure, "spectrum", "Power spectra of all arms on a log scale."), caption))
    metric, cost = first.leading_metric(inputs.table, inputs.arms), _cost(inputs)
    if not metric or cost is None:
        return plots, ""
    scored = set(inputs.table.loc[(inputs.table["metric"] == metric) & tables.is_scored(inputs.table), "arm"])
    costs = cost.medians[lambda found: (found > 0) & found.index.isin(scored)]
    if costs.nunique() < 2:
        said = f"Cost is not plotted: every arm that runs the model takes {number(float(costs.max()))} {cost.title}."
        return plots, said if len(costs) > 1 else ""
    figure = figures.cost_figure(inputs.table, cost, metric, inputs.arms)
    label = words(metric).label
    svg = figures.to_svg(figure, "cost", f"{label} of each arm over {cost.title}.")
    return [*plots, Plot(svg, f"{label} against cost. {cost.note}")], ""


def loss_plots(inputs: ReportInputs) -> list[Plot]:
    """A plot a stage of its adapters' losses over the steps; none for a stage that logged nothing to see."""
    plots = []
    stages = [] if inputs.losses.empty else sorted(inputs.losses["stage"].unique())
    for stage in stages:
        rows = inputs.losses[inputs.losses["stage"] == stage]
        if not figures.shows_anything(rows["loss"]):
            continue
        title = {"stage1": "Stage 1, modality alignment", "stage2": "Stage 2, spatial extrapolation"}.get(stage, stage)
        caption = f"{title}. Faint: the logged loss; firm: its running mean."
        if stage == "stage2":
            caption += " Losses of different objectives have different scales and cannot be compared with each other."
        figure = figures.loss_figure(inputs.losses, stage, inputs.adapters)
        svg = figures.to_svg(figure, f"loss-{stage}", f"{title}: loss over steps.")
        plots.append(Plot(svg, caption + _speed(rows)))
    return plots


def _speed(rows: pd.DataFrame) -> str:
    parts = []
    for column, unit in (("images_per_second", "images/s"), ("tokens_per_second", "tokens/s")):
        if column in rows and figures.shows_anything(rows[column]):
            parts.append(f"{number(float(rows[column].median()))} {unit}")
    return f" Median speed {', '.join(parts)}." if parts else ""
