"""The report page: one HTML file that needs nothing beside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from vibe_pipeline.evaluation.claims import MEANINGS
from vibe_pipeline.evaluation.differences import TRAINING
from vibe_pipeline.evaluation.earlier_looks import said_of_earlier
from vibe_pipeline.io.redact import redact
from vibe_pipeline.io.score_table import WHOLE_ARM
from vibe_pipeline.reporting import blocks, first, gallery, narrative, paper, plots, tables, verdicts
from vibe_pipeline.reporting.ages import older_parts
from vibe_pipeline.reporting.report_inputs import ReportInputs
from vibe_pipeline.reporting.setting import setting

TEMPLATES, ASSETS = Path(__file__).parent / "templates", Path(__file__).parent / "assets"
SCRIPTS = ("view.js", "folds.js", "clock.js", "lens.js", "slide.js", "player.js", "wall.js", "tables.js", "copy.js")
"""In the order in which they need each other."""
PAGE_BYTES = 14_000_000


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
    plotted, unplotted = plots.metric_plots(inputs)
    overview, unplotted_cost = plots.overview_plots(inputs)
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
        "sweep_plots": plots.sweep_plots(inputs),
        "metric_plots": plotted,
        "overview_plots": overview,
        "not_plotted": [line for line in (unplotted, unplotted_cost) if line],
        "loss_plots": plots.loss_plots(inputs),
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
