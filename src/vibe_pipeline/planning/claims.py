"""Whether what the report puts to the test will be measured; asked before anything runs."""

import logging
from collections.abc import Mapping
from typing import Any

from vibe_pipeline.evaluation.composites import unasked_parts
from vibe_pipeline.evaluation.metrics.registry import METRICS
from vibe_pipeline.experiment.claims import Claims
from vibe_pipeline.experiment.evaluation import EvaluationParams
from vibe_pipeline.io.errors import did_you_mean, one_line
from vibe_pipeline.vbench.dimensions import dimension_of

log = logging.getLogger(__name__)


def check_claims(claims: Claims, evaluation: EvaluationParams) -> None:
    """Warn of claims on dimensions, or on what is made of them, that will not be measured.

    Raises:
        ValueError: `evaluation.overall_dimensions` names one that VBench does not have, or a claim names a metric that
            there is not.
    """
    for number, claim in enumerate(claims.root):
        for metric in claim.metrics:
            _require_metric(metric, f"claims.{number}.metrics, of {claim.name!r}")
    overall = [_dimension(name, "evaluation.overall_dimensions") for name in evaluation.overall_dimensions]
    asked = [dimension_of(name).name for name in evaluation.vbench_dimensions]
    wanted = {metric for claim in claims.root for metric in claim.metrics}
    if unasked := sorted({name for metric in wanted for name in unasked_parts(metric, asked, overall)}):
        log.warning(
            "there are claims on %s, which evaluation.vbench_dimensions does not ask for: they will not be measured",
            ", ".join(unasked),
        )


def check_published(published: Mapping[str, Any]) -> None:
    """Refuse a published column that names a metric of ours which there is not: ours would never stand beside it.

    Raises:
        ValueError: Names the column and the metric that is spelt most alike.
    """
    for name, column in published.get("columns", {}).items():
        if metric := column.get("metric"):
            _require_metric(metric, f"published.yml: columns.{name}.metric")


def _require_metric(metric: object, field: str) -> None:
    if metric not in METRICS:
        hint = did_you_mean(metric, METRICS)
        raise ValueError(f"{field}: {one_line(metric, 60)!r} is not a metric{hint}")


def _dimension(name: str, field: str) -> str:
    try:
        return dimension_of(name).name
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from error
