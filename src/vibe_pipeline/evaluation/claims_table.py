"""The verdicts as a table: a row a claim and measure, with every interval and p-value that the verdict rests on."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from vibe_pipeline.evaluation.bootstrap import Bootstrap
from vibe_pipeline.evaluation.claims import ClaimVerdict
from vibe_pipeline.evaluation.earlier_looks import said_of_earlier
from vibe_pipeline.evaluation.readings import Evidence

TEXT = ("claim", "kind", "arm", "other", "verdict", "corrected", "metric", "role", "better", "reading",
        "corrected_reading", "looked_before", "reason")  # fmt: skip
FIGURES = (
    "family", "margin", "at_least", "prompts", "training_seeds", "difference", "low", "high", "seeds_low", "seeds_high",
    "crossed_low", "crossed_high", "exact_low", "exact_high", "p_different", "p_different_corrected", "p_equivalent",
    "p_equivalent_corrected", "prompts_needed", "look", "looks", "level", "repeated_low", "repeated_high",
)  # fmt: skip
CLAIM_COLUMNS = (*TEXT[:-1], *FIGURES, TEXT[-1])


def claims_table(
    judgements: Sequence[ClaimVerdict], bootstrap: Bootstrap, before: Mapping[str, Sequence[int]] | None = None
) -> pd.DataFrame:
    """One row a claim and measure, the primary one first; one row of a claim that was not run.

    Args:
        judgements: Of one report.
        bootstrap: How they were judged: the intervals' confidence, and which look at a growing number of prompts it is.
        before: By claim, prompts of looks before that nothing is corrected for.

    Returns:
        Columns :data:`CLAIM_COLUMNS`. `verdict` and `reading` are of the claim and the measure by themselves, the
        `corrected` ones of the family, whose size is `family`. `low` and `high` are the bootstrap's, `seeds` t over
        training seeds, `crossed` t over prompts and training seeds as random effects, `exact` of yes-or-no measures.
        `look` of `looks` is at which a claim by itself is told from p ≤ `level` on; `repeated` is `crossed` at that
        level, which over all looks holds the difference as often as the others do at one. What there is none of is NaN.
    """
    rows = [row for judgement in judgements for row in _rows(judgement, bootstrap)]
    noted = {name: said_of_earlier(counts) for name, counts in (before or {}).items()}
    rows = [row | {"looked_before": noted.get(row["claim"], "")} for row in rows]
    return pd.DataFrame(rows, columns=list(CLAIM_COLUMNS))


def _rows(judgement: ClaimVerdict, bootstrap: Bootstrap) -> Iterator[dict[str, Any]]:
    claim = judgement.claim
    of_claim: dict[str, Any] = {"claim": claim.name, "kind": claim.kind, "arm": claim.arm, "other": claim.other}
    of_claim |= {"verdict": judgement.verdict, "corrected": judgement.corrected}
    look = bootstrap.look
    of_claim |= {"look": look.number, "looks": look.of, "level": look.level(1 - bootstrap.confidence)}
    if not judgement.evidence:
        yield of_claim | {"metric": claim.primary.metric, "role": "primary", "reason": judgement.reason}
    for number, evidence in enumerate(judgement.evidence):
        yield of_claim | {"role": "secondary" if number else "primary"} | _measured(evidence, bootstrap)


def _measured(evidence: Evidence, bootstrap: Bootstrap) -> dict[str, Any]:
    asked, found = evidence.question, evidence.found
    row = {"metric": asked.metric, "better": asked.better, "margin": asked.margin, "at_least": asked.at_least}
    row |= {"reading": evidence.verdict, "corrected_reading": evidence.corrected, "reason": evidence.reason}
    row |= {"difference": evidence.difference, "low": evidence.low, "high": evidence.high, "prompts": evidence.pairs}
    row |= {"p_different": evidence.p_different, "p_different_corrected": evidence.corrected_different}
    row |= {"p_equivalent": evidence.p_equivalent, "p_equivalent_corrected": evidence.corrected_equivalent}
    row |= {"family": evidence.family, "prompts_needed": evidence.needed}
    if found is None:
        return row
    once, here = bootstrap.confidence, 1 - bootstrap.look.level(1 - bootstrap.confidence)
    tests = {"seeds": (found.seeds, once), "crossed": (found.crossed, once), "exact": (found.exact, once)}
    for name, (test, confidence) in (tests | {"repeated": (found.crossed, here)}).items():
        ends = (math.nan, math.nan) if test is None else test.interval(confidence)
        row |= dict(zip((f"{name}_low", f"{name}_high"), ends, strict=True))
    return row | {"training_seeds": found.training_seeds}
