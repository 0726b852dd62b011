"""Claims as data, and what the scores say about each of them.

A claim is that one arm is better than another on every metric it names. Both arms share prompts and
seeds, so the difference is taken clip by clip, averaged over a prompt's seeds, and its interval comes
from a bootstrap over prompts, and over training seeds where an arm was trained with several.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Literal

import pandas as pd

from vibe_pipeline.evaluation.bootstrap import DEFAULT_BOOTSTRAP, Bootstrap
from vibe_pipeline.evaluation.power import prompts_needed
from vibe_pipeline.evaluation.statistics import Difference, paired_difference
from vibe_pipeline.experiment.claims import Claim

Verdict = Literal["holds", "does not hold", "cannot be told from this data", "not measured", "not run"]
HOLDS: Verdict = "holds"
FAILS: Verdict = "does not hold"
OPEN: Verdict = "cannot be told from this data"
ABSENT: Verdict = "not measured"
NOT_RUN: Verdict = "not run"


@dataclass(frozen=True)
class Evidence:
    """What one metric says about a claim; `difference` is arm − other, with its interval.

    Attributes:
        metric: Its name.
        better: Its better side.
        verdict: What it says.
        reason: Why it says no more.
        difference: Mean over prompts.
        low: Of its interval.
        high: Of its interval.
        pairs: Prompts that went in.
        needed: Of what cannot be told, prompts that would tell a difference as large as the one seen; None: no number.
        found: The difference in full; None where there is none. How many clips it is of changes nothing said here.
    """

    metric: str
    better: Literal["higher", "lower"]
    verdict: Verdict
    reason: str = ""
    difference: float = math.nan
    low: float = math.nan
    high: float = math.nan
    pairs: int = 0
    needed: int | None = None
    found: Difference | None = field(default=None, compare=False)


@dataclass(frozen=True)
class ClaimVerdict:
    """A claim, the evidence metric by metric, and the verdict."""

    claim: Claim
    verdict: Verdict
    reason: str
    evidence: tuple[Evidence, ...]


def compare_on_metric(
    scores: pd.DataFrame,
    arm: str,
    other: str,
    metric: str,
    better: Literal["higher", "lower"],
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
    at_least: float = 0.0,
) -> Evidence:
    """What one metric says about `arm` being better than `other`, by at least so much."""
    if scores.empty:
        return Evidence(metric, better, ABSENT, why_missing(scores, (arm, other), metric))
    found = paired_difference(scores, arm, other, metric, bootstrap)
    if not found.prompts:
        return Evidence(metric, better, ABSENT, why_missing(scores, (arm, other), metric))
    verdict, reason = _judged(found, better, at_least, bootstrap)
    seen = (found.mean if better == "higher" else -found.mean) - at_least
    needed = prompts_needed(found, seen, bootstrap.confidence) if verdict == OPEN else None
    return Evidence(
        metric, better, verdict, reason, found.mean, found.low, found.high, found.prompts, needed=needed, found=found
    )


def _judged(
    found: Difference, better: Literal["higher", "lower"], at_least: float, bootstrap: Bootstrap
) -> tuple[Verdict, str]:
    """What the interval of a difference says, and why no more."""
    n = found.prompts
    low, high = (found.low, found.high) if better == "higher" else (-found.high, -found.low)
    if not found.clips:
        return OPEN, "one figure an arm has no interval"
    if n < bootstrap.fewest_pairs:
        return OPEN, f"only {n} prompt{'s' * (n != 1)}; an interval needs {bootstrap.fewest_pairs}"
    if low > at_least:
        return HOLDS, ""
    if high < at_least:
        return FAILS, f"the gain is below {at_least:g}" if at_least > 0 < high else ""
    limit = at_least if better == "higher" or not at_least else -at_least
    return OPEN, f"the interval of the difference contains {limit:g}"


def why_missing(scores: pd.DataFrame, arms: tuple[str, ...], metric: str) -> str:
    """The reasons the scores give for a metric's absence, or that there are none."""
    if scores.empty:
        return "no scores in this run"
    rows = scores[(scores["metric"] == metric) & scores["arm"].isin(arms)]
    given = [str(r) for r in rows.get("reason", pd.Series(dtype=object)).dropna().unique() if str(r).strip()]
    return "; ".join(given) or "not scored for both arms on the same clips"


def _if_it_matters(evidence: Evidence, smallest: float) -> Evidence:
    """Evidence of a difference too small to matter speaks neither for nor against."""
    if evidence.verdict in (HOLDS, FAILS) and abs(evidence.difference) < smallest:
        return replace(evidence, verdict=OPEN, reason=f"the difference is below {smallest:g}, too small to matter")
    return evidence


def evaluate_claim(claim: Claim, scores: pd.DataFrame, bootstrap: Bootstrap = DEFAULT_BOOTSTRAP) -> ClaimVerdict:
    """Judge a claim.

    It holds if every named metric was measured and its interval lies on the claimed side of 0, or of the gain that the
    claim asks for at least; it does not hold if any lies on the other side; else it cannot be told. Without a measured
    metric it is not measured; without one of its arms it was not run.
    """
    present = set(scores["arm"]) if "arm" in scores else set()
    lacking = [a for a in (claim.arm, claim.other) if a not in present]
    if lacking:
        return ClaimVerdict(claim, NOT_RUN, f"not in this run: {', '.join(lacking)}", ())
    evidence = tuple(
        compare_on_metric(
            scores=scores,
            arm=claim.arm,
            other=claim.other,
            metric=metric,
            better=better,
            bootstrap=bootstrap,
            at_least=claim.limit(metric),
        )
        for metric, better in claim.metrics.items()
    )
    evidence = tuple(_if_it_matters(e, claim.smallest.get(e.metric, 0.0)) for e in evidence)
    counts = {v: sum(e.verdict == v for e in evidence) for v in (HOLDS, FAILS, OPEN, ABSENT)}
    measured = len(evidence) - counts[ABSENT]
    if not measured:
        return ClaimVerdict(claim, ABSENT, "; ".join(dict.fromkeys(e.reason for e in evidence)), evidence)
    verdict = FAILS if counts[FAILS] else HOLDS if counts[HOLDS] == len(evidence) else OPEN
    reason = f"{counts[HOLDS]} of {measured} measures clearly for, {counts[FAILS]} clearly against"
    if counts[ABSENT]:
        reason += f", {counts[ABSENT]} not measured"
    return ClaimVerdict(claim, verdict, reason, evidence)
