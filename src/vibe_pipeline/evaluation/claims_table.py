"""The verdicts as a table: a row a claim and measure, with every interval and p-value that the verdict rests on."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from vibe_pipeline.evaluation.claims import ClaimVerdict
from vibe_pipeline.evaluation.readings import Evidence

TEXT = ("claim", "kind", "arm", "other", "verdict", "corrected", "metric", "role", "better", "reading",
        "corrected_reading", "reason")  # fmt: skip
FIGURES = (
    "family", "margin", "at_least", "prompts", "training_seeds", "difference", "low", "high", "seeds_low", "seeds_high",
    "crossed_low", "crossed_high", "exact_low", "exact_high", "p_different", "p_different_corrected", "p_equivalent",
    "p_equivalent_corrected", "prompts_needed",
)  # fmt: skip
CLAIM_COLUMNS = (*TEXT[:-1], *FIGURES, TEXT[-1])


def claims_table(judgements: Sequence[ClaimVerdict], confidence: float) -> pd.DataFrame:
    """One row a claim and measure, the primary one first; one row of a claim that was not run.

    Args:
        judgements: Of one report.
        confidence: Of the intervals.

    Returns:
        Columns :data:`CLAIM_COLUMNS`. `verdict` and `reading` are of the claim and the measure by themselves, the
        `corrected` ones of the family, whose size is `family`. `low` and `high` are the bootstrap's, `seeds` t over
        training seeds, `crossed` t over prompts and training seeds as random effects, `exact` of yes-or-no measures.
        What there is none of is NaN.
    """
    rows = [row for judgement in judgements for row in _rows(judgement, confidence)]
    return pd.DataFrame(rows, columns=list(CLAIM_COLUMNS))


def _rows(judgement: ClaimVerdict, confidence: float) -> Iterator[dict[str, Any]]:
    claim = judgement.claim
    of_claim = {"claim": claim.name, "kind": claim.kind, "arm": claim.arm, "other": claim.other}
    of_claim |= {"verdict": judgement.verdict, "corrected": judgement.corrected}
    if not judgement.evidence:
        yield of_claim | {"metric": claim.primary.metric, "role": "primary", "reason": judgement.reason}
    for number, evidence in enumerate(judgement.evidence):
        yield of_claim | {"role": "secondary" if number else "primary"} | _measured(evidence, confidence)


def _measured(evidence: Evidence, confidence: float) -> dict[str, Any]:
    asked, found = evidence.question, evidence.found
    row = {"metric": asked.metric, "better": asked.better, "margin": asked.margin, "at_least": asked.at_least}
    row |= {"reading": evidence.verdict, "corrected_reading": evidence.corrected, "reason": evidence.reason}
    row |= {"difference": evidence.difference, "low": evidence.low, "high": evidence.high, "prompts": evidence.pairs}
    row |= {"p_different": evidence.p_different, "p_different_corrected": evidence.corrected_different}
    row |= {"p_equivalent": evidence.p_equivalent, "p_equivalent_corrected": evidence.corrected_equivalent}
    row |= {"family": evidence.family, "prompts_needed": evidence.needed}
    if found is None:
        return row
    for name, test in (("seeds", found.seeds), ("crossed", found.crossed), ("exact", found.exact)):
        ends = (math.nan, math.nan) if test is None else test.interval(confidence)
        row |= dict(zip((f"{name}_low", f"{name}_high"), ends, strict=True))
    return row | {"training_seeds": found.training_seeds}
