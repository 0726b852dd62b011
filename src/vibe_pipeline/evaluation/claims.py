"""Claims as data, and what the scores say about each of them.

A claim is that one arm is better than another, by a primary measure. Both arms share prompts and seeds, so differences
are taken clip by clip. How one measure is read stands in :mod:`.readings`; here, how a claim's measures make a verdict,
and how the claims of one report are corrected for how many there are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

import pandas as pd

from vibe_pipeline.evaluation.bootstrap import DEFAULT_BOOTSTRAP, Bootstrap
from vibe_pipeline.evaluation.multiplicity import holm
from vibe_pipeline.evaluation.readings import (
    ABSENT,
    EQUIVALENT,
    FAILS,
    HOLDS,
    MIXED,
    NOT_RUN,
    OPEN,
    Evidence,
    Question,
    Verdict,
    compare_on_metric,
    corrected,
)
from vibe_pipeline.experiment.claims import Asked, Claim

MEANINGS = MappingProxyType(
    {
        HOLDS: "on the primary measure the arm is better for certain, by the margin or more, and no secondary measure "
        "tells against it",
        MIXED: "on the primary measure as for “holds”, but at least one secondary measure is worse for certain, by its "
        "margin or more",
        EQUIVALENT: "on the primary measure the difference lies within the margin for certain: too small to matter",
        FAILS: "on the primary measure the arm is worse for certain, or short of the least gain, by the margin or more",
        OPEN: "on the primary measure none of these is certain; more prompts or training seeds would tell",
        ABSENT: "the primary measure has no score for both arms",
        NOT_RUN: "one of the arms is not in this run",
    }
)
"""What each verdict says, in the order of the report."""


@dataclass(frozen=True)
class ClaimVerdict:
    """A claim, the evidence measure by measure, and the verdict.

    Attributes:
        claim: What was put to the test.
        verdict: Of the claim by itself, nothing corrected.
        corrected: Of the claim as one of all that the report tests: its primary measure corrected over these claims,
            its secondary measures over each other.
        reason: What the secondary measures say, or why there is nothing to say.
        evidence: The primary measure first; empty where an arm was not run.
    """

    claim: Claim
    verdict: Verdict
    corrected: Verdict
    reason: str
    evidence: tuple[Evidence, ...]


def judge_claims(
    claims: Sequence[Claim], scores: pd.DataFrame, bootstrap: Bootstrap = DEFAULT_BOOTSTRAP
) -> tuple[ClaimVerdict, ...]:
    """Judge the claims of one report, each by itself and corrected for how many were tested."""
    evidence = [_evidence(claim, scores, bootstrap) for claim in claims]
    run = [(claim, found) for claim, found in zip(claims, evidence, strict=True) if found]
    judged = iter(judge_evidence([claim for claim, _ in run], [found for _, found in run], bootstrap))
    return tuple(
        next(judged)
        if found
        else ClaimVerdict(claim, NOT_RUN, NOT_RUN, f"not in this run: {', '.join(_lacking(claim, scores))}", ())
        for claim, found in zip(claims, evidence, strict=True)
    )


def judge_evidence(
    claims: Sequence[Claim], evidence: Sequence[Sequence[Evidence]], bootstrap: Bootstrap = DEFAULT_BOOTSTRAP
) -> tuple[ClaimVerdict, ...]:
    """Judge claims by what each of their measures says by itself, the primary one first.

    Holm's correction is made over the claims' primary measures, of the tests for a difference and of those for
    equivalence, and over a claim's secondary measures likewise. No claim can be wrongly told by both kinds of test: two
    arms cannot be without a difference and differ by more than the margin at once.
    """
    primary = _corrected([found[0] for found in evidence], bootstrap)
    return tuple(
        _composed(claim, (first, *_corrected(found[1:], bootstrap)))
        for claim, first, found in zip(claims, primary, evidence, strict=True)
    )


def _lacking(claim: Claim, scores: pd.DataFrame) -> list[str]:
    present = set(scores["arm"]) if "arm" in scores else set()
    return [arm for arm in (claim.arm, claim.other) if arm not in present]


def _evidence(claim: Claim, scores: pd.DataFrame, bootstrap: Bootstrap) -> tuple[Evidence, ...]:
    """What every measure says by itself, the primary one first; empty where an arm was not run."""
    if _lacking(claim, scores):
        return ()
    questions = (_question(claim.primary, claim.at_least or 0.0), *map(_question, claim.secondary))
    return tuple(compare_on_metric(scores, claim.arm, claim.other, question, bootstrap) for question in questions)


def _question(asked: Asked, at_least: float = 0.0) -> Question:
    return Question(asked.metric, asked.better, asked.margin, at_least)


def _corrected(family: Sequence[Evidence], bootstrap: Bootstrap) -> list[Evidence]:
    """The evidence, each corrected for how many of them were tested and, where prompts grow, at how many looks."""
    look = bootstrap.look
    different = holm([look.over_all(e.p_different) for e in family])
    equivalent = holm([look.over_all(e.p_equivalent) for e in family])
    tested = sum(e.p_different == e.p_different for e in family)
    return [
        corrected(e, apart, alike, tested, bootstrap)
        for e, apart, alike in zip(family, different, equivalent, strict=True)
    ]


def _composed(claim: Claim, evidence: tuple[Evidence, ...]) -> ClaimVerdict:
    """The verdict: the primary measure decides; secondary ones that tell against it make "holds" a "mixed"."""
    primary, *secondary = evidence
    alone, together = (
        MIXED if said == HOLDS and FAILS in others else said
        for said, others in (
            (primary.verdict, [e.verdict for e in secondary]),
            (primary.corrected, [e.corrected for e in secondary]),
        )
    )
    return ClaimVerdict(claim, alone, together, _reason(primary, secondary), evidence)


def _reason(primary: Evidence, secondary: Sequence[Evidence]) -> str:
    """Why the primary measure has no score, or how many secondary ones say what."""
    if primary.verdict == ABSENT:
        return primary.reason
    words = {HOLDS: "for", FAILS: "against", EQUIVALENT: "equivalent", OPEN: "open", ABSENT: "not measured"}
    counts = {word: sum(e.corrected == said for e in secondary) for said, word in words.items()}
    said = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    return f"secondary measures: {said}" if said else ""
