"""A run's result in a few lines, for the terminal: arms by the measures to read first, and every claim's verdict."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from vibe_pipeline.evaluation.claims import ClaimVerdict
from vibe_pipeline.experiment.claims import Claim
from vibe_pipeline.io.text_table import aligned
from vibe_pipeline.reporting.first import READ_FIRST
from vibe_pipeline.reporting.glossary import ARROWS, number, words
from vibe_pipeline.reporting.tables import is_scored, metric_order
from vibe_pipeline.reporting.verdicts import MARKS

MEASURES, ARMS = 3, 10


def result_of(
    table: pd.DataFrame, claims: Sequence[Claim], judgements: Sequence[ClaimVerdict], leading: Sequence[str]
) -> dict[str, Any]:
    """What of the ablation table is read first, for JSON.

    Args:
        table: Ablation table.
        claims: What was put to the test: the arms that they compare come before the others.
        judgements: What came of each.
        leading: Arms that come before all: the reference, and those of the page's first screen.
    """
    scored = table[is_scored(table)] if len(table) else table
    metrics = to_read_first(scored)
    arms = list(dict.fromkeys([*leading, *(a for c in claims for a in (c.arm, c.other)), *table.get("arm", ())]))
    arms = [arm for arm in arms if len(scored) and arm in set(scored["arm"])]
    means = {(row.arm, row.metric): float(row.mean) for row in scored.itertuples()}
    better = {row.metric: row.direction for row in scored.itertuples()}
    return {
        "measures": [f"{words(m).label} {ARROWS.get(better[m], '')}".strip() for m in metrics],
        "arms": {arm: [number(means.get((arm, m), float("nan"))) for m in metrics] for arm in arms[:ARMS]},
        "more_arms": max(0, len(arms) - ARMS),
        "claims": [[MARKS[j.corrected], j.corrected, j.claim.statement] for j in judgements],
    }


def to_read_first(scored: pd.DataFrame) -> list[str]:
    """As on the page's first screen, of those that most arms were scored on; then in the table's order."""
    if scored.empty:
        return []
    arms = scored.groupby("metric")["arm"].nunique()
    there = [metric for metric in metric_order(scored) if arms[metric] > arms.max() / 2]  # not of the ceiling alone
    return list(dict.fromkeys([*(metric for metric in READ_FIRST if metric in there), *there]))[:MEASURES]


def ending(report: Mapping[str, Any] | None, run: str, preview: Mapping[str, Any] | None = None) -> list[str]:
    """The lines that a run ends with.

    Args:
        report: The page's manifest; None where this run made no page.
        run: The run's address in MLflow; '' if it has none.
        preview: Of the native clips, where the run stopped after them: its contact sheets.
    """
    lines = ["done"] if report is None else [*_table(report["result"]), ""]
    if report is not None:
        lines.append(f"report   {Path(report['path']).absolute().as_uri()}")
    if preview is not None:
        lines += [f"preview  {Path(sheet).absolute().as_uri()}" for sheet in preview["sheets"]]
    if run:
        lines.append(f"MLflow   {run}")
    return lines


def _table(result: Mapping[str, Any]) -> list[str]:
    """The arms' rows, then a line a claim."""
    if not result["arms"]:
        return ["no arm was scored: the report says why"]
    lines = aligned([("arm", *result["measures"]), *((arm, *cells) for arm, cells in result["arms"].items())], left=1)
    if result["more_arms"]:
        lines.append(f"and {result['more_arms']} more in the report")
    told = [f"{mark} {verdict}: {statement}" for mark, verdict, statement in result["claims"]]
    return [*lines, "", *told, *([result["look"]] if told and result.get("look") else [])]
