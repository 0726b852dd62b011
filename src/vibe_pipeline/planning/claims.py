"""Whether what the report puts to the test will be measured; asked before anything runs."""

import logging

from vibe_pipeline.evaluation.composites import unasked_parts
from vibe_pipeline.evaluation.metrics.registry import METRICS
from vibe_pipeline.experiment.claims import Claims
from vibe_pipeline.experiment.evaluation import EvaluationParams
from vibe_pipeline.io.errors import did_you_mean
from vibe_pipeline.vbench.dimensions import dimension_of

log = logging.getLogger(__name__)


def check_claims(claims: Claims, evaluation: EvaluationParams) -> None:
    """Warn of claims on dimensions, or on what is made of them, that will not be measured.

    Raises:
        ValueError: `evaluation.overall_dimensions` names one that VBench does not have, or a claim a metric that is not
            there.
    """
    overall = [_dimension(name, "evaluation.overall_dimensions") for name in evaluation.overall_dimensions]
    asked = [dimension_of(name).name for name in evaluation.vbench_dimensions]
    wanted = {asked.metric for claim in claims.root for asked in claim.measures}
    if unknown := sorted(wanted - METRICS.keys()):
        near = did_you_mean(unknown[0], METRICS)
        raise ValueError(f"there are claims on {unknown[0]!r}, which is not a metric{near}")
    if unasked := sorted({name for metric in wanted for name in unasked_parts(metric, asked, overall)}):
        log.warning(
            "there are claims on %s, which evaluation.vbench_dimensions does not ask for: they will not be measured",
            ", ".join(unasked),
        )


def _dimension(name: str, field: str) -> str:
    try:
        return dimension_of(name).name
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from error
