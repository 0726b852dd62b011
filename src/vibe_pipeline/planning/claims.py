"""Whether what the report puts to the test will be measured; asked before anything runs."""

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from vibe_pipeline.evaluation.composites import missing_parts
from vibe_pipeline.evaluation.metrics.asked import ASKED
from vibe_pipeline.evaluation.metrics.registry import METRICS
from vibe_pipeline.experiment.claims import Asked, Claim, Claims
from vibe_pipeline.experiment.evaluation import EvaluationParams
from vibe_pipeline.io.errors import did_you_mean, one_line
from vibe_pipeline.vbench.dimensions import dimension_of

log = logging.getLogger(__name__)

NAMED = 3
"""How many claims are named of those that lack the same."""


def check_claims(claims: Claims, evaluation: EvaluationParams) -> None:
    """Warn of claims on dimensions, or on what is made of them, that will not be measured.

    Raises:
        ValueError: `evaluation.overall_dimensions` names a dimension that VBench does not have, or a claim's kind a
            metric that there is not, or the worse side of one as the better.
    """
    overall = [_dimension(name, "evaluation.overall_dimensions") for name in evaluation.overall_dimensions]
    asked = [dimension_of(name).name for name in evaluation.vbench_dimensions]
    wanted = {measure for claim in claims.root for measure in claim.measures}
    for claim in claims.root:
        for measure in claim.measures:
            _check_measure(measure, claim)
    unasked = {name for measure in wanted for name in missing_parts(measure.metric, asked, overall)}
    if unasked:
        log.warning(
            "there are claims on %s, which evaluation.vbench_dimensions does not ask for: they will not be measured",
            ", ".join(sorted(unasked)),
        )


def unjudged(claims: Claims, evaluation: EvaluationParams, measured: Collection[str]) -> str:
    """Which claims get no verdict, as a part of their primary measure has no score; empty where all get one.

    Args:
        claims: That :func:`check_claims` has nothing against.
        evaluation: What is asked for.
        measured: VBench's dimensions, and the measures that are made where asked for, that will have scores.
    """
    overall = [dimension_of(name).name for name in evaluation.overall_dimensions]
    lacks: dict[str, list[str]] = {}
    for claim in claims.root:
        metric = claim.primary.metric
        lacking = missing_parts(metric, measured, overall)
        if metric in {entry.name for entry in ASKED} and metric not in measured:
            lacking = [metric]
        if lacking:
            why = f"{metric} is not measured" if lacking == [metric] else f"{metric} lacks {', '.join(lacking)}"
            lacks.setdefault(why, []).append(claim.name)
    return "; ".join(f"cannot judge {_first_few(names)}, as {why}" for why, names in lacks.items())


def _first_few(names: Sequence[str]) -> str:
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + rest


def _check_measure(measure: Asked, claim: Claim) -> None:
    """Whether there is such a metric, with that better side; one without a better side may have either."""
    known = METRICS.get(measure.metric)
    if known is None:
        near = did_you_mean(measure.metric, METRICS)
        raise ValueError(f"claims: kinds.{claim.kind} names {measure.metric!r}, which is not a metric{near}")
    if known.direction not in ("none", measure.better):
        said = f"{measure.better} {measure.metric} as the better side; it is {known.direction}"
        raise ValueError(f"claims: kinds.{claim.kind} has {said}")


def check_published(published: Mapping[str, Any]) -> None:
    """Refuse a published column that names a metric of ours which there is not: ours would never stand beside it.

    Raises:
        ValueError: Names the column and the metric that is spelt most alike.
    """
    for name, column in published.get("columns", {}).items():
        metric = column.get("metric")
        if metric and metric not in METRICS:
            near = did_you_mean(metric, METRICS)
            raise ValueError(f"published.yml: columns.{name}.metric: {one_line(metric, 60)!r} is not a metric{near}")


def _dimension(name: str, field: str) -> str:
    try:
        return dimension_of(name).name
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from error
