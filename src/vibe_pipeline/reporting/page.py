"""The report page: one HTML file that needs nothing beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from vibe_pipeline.evaluation.bootstrap import DEFAULT_BOOTSTRAP, Bootstrap
from vibe_pipeline.evaluation.claims import MEANINGS, ClaimVerdict, judge_claims
from vibe_pipeline.evaluation.differences import TRAINING
from vibe_pipeline.evaluation.earlier_looks import said_of_earlier
from vibe_pipeline.experiment.adapters import AdapterParams
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.claims import Claim
from vibe_pipeline.io.redact import redact
from vibe_pipeline.io.score_table import WHOLE_ARM
from vibe_pipeline.reporting import blocks, figures, first, gallery, narrative, paper, sweep_figures, tables, verdicts
from vibe_pipeline.reporting.ages import Age, older_parts
from vibe_pipeline.reporting.cost import Cost, cost_of
from vibe_pipeline.reporting.glossary import number, words
from vibe_pipeline.reporting.setting import setting

TEMPLATES, ASSETS = Path(__file__).parent / "templates", Path(__file__).parent / "assets"
SCRIPTS = ("view.js", "folds.js", "clock.js", "lens.js", "slide.js", "player.js", "wall.js", "tables.js", "copy.js")
"""In the order in which they need each other."""
PAGE_BYTES = 14_000_000


def _nothing() -> pd.DataFrame:
    return pd.DataFrame()


@dataclass(frozen=True)
class ReportInputs:
    """Everything the page shows; any of it may be empty, and the page says so.

    Attributes:
        title: Heading of the page.
        arms: Declared arms, by name.
        adapters: Declared adapters, by name.
        reference: The arm differences are taken to, or the swept row whose variants they are taken to.
        references: For each arm its own reference, where it is a variant of `reference`.
        table: Ablation table: arm, metric, mean, ci_low, ci_high, n, direction, family, diff, diff_low,
            diff_high, n_pairs, status, reason, training_seeds, effect_size.
        scores: Per-clip scores: arm, prompt_index, seed, metric, value, direction, family, status, reason; and
            training_seed, where replicates are pooled.
        clips: arm, prompt_index, prompt, seed, path, preview_path, height, width, frames, fps, seconds,
            native_source, reference_path.
        losses: adapter, stage, step, loss.
        checks: adapter, kind, the settings of these kinds, mse_degraded, mse_upsampled.
        spectra: arm, cycles, power (or its log10).
        provenance: What made the figures; may be nested.
        published: The content of published.yml.
        claims: What is put to the test.
        band: Cycles per frame height that the native clip cannot hold but the target can.
        clips_shown: How many prompts to show pictures and clips of.
        bootstrap: How intervals of differences are drawn.
        ages: When the parts were made, and by which run.
        earlier_looks: By claim, prompts of looks before that its verdict is not corrected for.
    """

    title: str
    arms: Mapping[str, ArmParams]
    adapters: Mapping[str, AdapterParams]
    reference: str
    table: pd.DataFrame = field(default_factory=_nothing)
    scores: pd.DataFrame = field(default_factory=_nothing)
    clips: pd.DataFrame = field(default_factory=_nothing)
    losses: pd.DataFrame = field(default_factory=_nothing)
    checks: pd.DataFrame = field(default_factory=_nothing)
    spectra: pd.DataFrame = field(default_factory=_nothing)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    published: Mapping[str, Any] = field(default_factory=dict)
    claims: Sequence[Claim] = ()
    band: tuple[float, float] | None = None
    clips_shown: int = 4
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP
    references: Mapping[str, str] = field(default_factory=dict)
    ages: Sequence[Age] = ()
    earlier_looks: Mapping[str, Sequence[int]] = field(default_factory=dict)

    @cached_property
    def judgements(self) -> list[ClaimVerdict]:
        """What the scores say of every claim."""
        return list(judge_claims(self.claims, self.scores, self.bootstrap))

    @property
    def reference_arms(self) -> frozenset[str]:
        """Every arm that some difference is taken to."""
        return frozenset(self.references.values()) or frozenset({self.reference})

    @property
    def reference_label(self) -> str:
        """What the page calls the reference."""
        if len(self.reference_arms) == 1:
            return tables.arm_label(next(iter(self.reference_arms)), self.arms)
        return f"the variant of “{self.reference}” with the same swept values"


@dataclass(frozen=True)
class Plot:
    """An inline SVG and the sentence under it."""

    svg: str
    caption: str


def write_report(inputs: ReportInputs, folder: Path) -> Path:
    """Write the report.

    Args:
        inputs: What to show.
        folder: Where index.html goes; made if it is not there.

    Returns:
        The path of index.html, self-contained: styles, script, pictures and clips are inside it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "index.html"
    unfinished = folder / "index.html.partial"
    unfinished.write_text(render(inputs), encoding="utf-8")
    return unfinished.replace(path)


def render(inputs: ReportInputs) -> str:
    """The page as text; all values are escaped but the plots, which this package draws itself."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["capitalize_first"] = lambda text: text[:1].upper() + text[1:]
    return environment.get_template("index.html.j2").render(context(inputs))


def context(inputs: ReportInputs) -> dict[str, Any]:
    """What the template is given."""
    not_run = tables.reasons_not_run(inputs.table)
    before = inputs.earlier_looks
    claims = [
        verdicts.claim_shown(j, inputs.arms, inputs.published, inputs.bootstrap, not_run)
        | {"before": said_of_earlier(before.get(j.claim.name, ()))}
        for j in inputs.judgements
    ]
    shaped = blocks.ablation_blocks(inputs.table, inputs.scores, inputs.arms, inputs.reference_arms, inputs.bootstrap)
    plotted, unplotted = _metric_plots(inputs)
    overview, unplotted_cost = _overview_plots(inputs)
    return {
        "title": inputs.title,
        "style": (ASSETS / "page.css").read_text(encoding="utf-8"),
        "script": "\n".join((ASSETS / name).read_text(encoding="utf-8") for name in SCRIPTS),
        **_first_screen(inputs, claims),
        "summary": narrative.summary(inputs.clips, inputs.arms),
        "claims": claims,
        "look_line": verdicts.look_line(inputs.bootstrap, before),
        "look": inputs.bootstrap.look,
        "meanings": MEANINGS,
        "confidence": f"{100 * inputs.bootstrap.confidence:g} %",
        "reference": inputs.reference_label,
        "replicated": TRAINING in inputs.scores,
        "blocks": shaped,
        "arms_run": tables.arms_run(inputs.table, inputs.arms, narrative.differences(inputs.clips)),
        "upsampling_wins": tables.unbeaten_upsampling(inputs.table, inputs.arms),
        "published": inputs.published,
        "paper_tables": paper.paper_tables(inputs.published, _ours(inputs)),
        "setting": [(name, redact(value)) for name, value in setting(inputs.provenance, inputs.table)],
        "sweep_plots": _sweep_plots(inputs),
        "metric_plots": plotted,
        "overview_plots": overview,
        "not_plotted": [line for line in (unplotted, unplotted_cost) if line],
        "loss_plots": _loss_plots(inputs),
        "checks": narrative.check_rows(inputs.checks, inputs.adapters),
        "sheets": gallery.sheets(inputs.clips, inputs.arms, inputs.clips_shown, PAGE_BYTES // 2),
        "missing": tables.missing(inputs.table, inputs.arms),
        "provenance": [(name, redact(value)) for name, value in narrative.flat(inputs.provenance)],
    }


def _first_screen(inputs: ReportInputs, claims: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Result, verdicts, the measures to read first, the slider; and the clips, which the slider draws from."""
    roles = first.roles_of(inputs.table, inputs.clips, inputs.arms)
    rows = first.first_rows(inputs.table, inputs.scores, roles, inputs.arms, inputs.bootstrap)
    clips = inputs.scores[inputs.scores["prompt_index"] != WHOLE_ARM] if len(inputs.scores) else inputs.scores
    prompts = int(clips["prompt_index"].nunique()) if len(clips) else 0
    takes = gallery.takes(inputs.clips, inputs.arms, inputs.clips_shown, PAGE_BYTES // 2 - 1_500_000)
    return {
        "roles": roles,
        "labels": [tables.arm_label(arm, inputs.arms) for arm in roles.named()],
        "outcome": first.outcome(rows, roles, inputs.arms, prompts),
        "verdict_line": verdicts.verdict_line(claims),
        "keys": verdicts.keys(claims),
        "first_rows": rows,
        "first_copies": first.first_grid(rows, roles, inputs.arms).copies(),
        "takes": takes,
        "poster": gallery.poster(inputs.clips, [roles.best, *roles.named()]) if takes else "",
        "ages": inputs.ages,
        "older": older_parts(inputs.ages),
    }


def _ours(inputs: ReportInputs) -> paper.Ours:
    return paper.Ours(
        table=inputs.table,
        scores=inputs.scores,
        arms=inputs.arms,
        references=inputs.references,
        reference=inputs.reference,
        bootstrap=inputs.bootstrap,
    )


def _metric_plots(inputs: ReportInputs) -> tuple[list[Plot], str]:
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


def _sweep_plots(inputs: ReportInputs) -> list[tuple[str, list[Plot]]]:
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


def _overview_plots(inputs: ReportInputs) -> tuple[list[Plot], str]:
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


def _loss_plots(inputs: ReportInputs) -> list[Plot]:
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
