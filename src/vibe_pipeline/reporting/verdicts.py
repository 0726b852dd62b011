"""How the page says what a claim or a comparison came to."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from vibe_pipeline.evaluation.claims import ABSENT, FAILS, HOLDS, NOT_RUN, OPEN, ClaimVerdict, Evidence
from vibe_pipeline.evaluation.metrics.registry import METRICS
from vibe_pipeline.evaluation.power import prompts_needed
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.reporting.glossary import ARROWS, number, together, words
from vibe_pipeline.reporting.published import published_difference, published_gain
from vibe_pipeline.reporting.tables import arm_label

KINDS = {HOLDS: "holds", FAILS: "fails", OPEN: "open", ABSENT: "absent", NOT_RUN: "absent"}
MARKS = {"holds": "✓", "fails": "✗", "open": "?", "absent": "–"}
READINGS = {HOLDS: "clearly for", FAILS: "clearly against", OPEN: "unclear", ABSENT: "not measured"}
_POINTS = frozenset({"vbench", "overall", "totals"})
"""Families whose scores are fractions that papers print times 100."""


def claim_shown(
    judgement: ClaimVerdict,
    arms: Mapping[str, ArmParams],
    published: Mapping[str, Any],
    confidence: float,
    not_run: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """A claim with its evidence, for the template; `not_run` says of arms that were left out why.

    Why something is missing is said once, in the list of what was skipped, to which `absent` leads.
    """
    claim, kind = judgement.claim, KINDS[judgement.verdict]
    reasons = [why for arm, why in (not_run or {}).items() if arm in (claim.arm, claim.other)]
    gains = published_difference(published, claim.arm, claim.other)
    return {
        "name": claim.name.replace("_", " "),
        "statement": claim.statement,
        "source": claim.source,
        "compared": f"{arm_label(claim.arm, arms)} − {arm_label(claim.other, arms)}",
        "verdict": judgement.verdict,
        "kind": kind,
        "mark": MARKS[kind],
        "reason": "" if judgement.verdict == ABSENT else judgement.reason,
        "absent": judgement.verdict == ABSENT or bool(reasons),
        "published": ", ".join(f"{label} {signed(gain)}" for label, gain in gains.items()),
        "evidence": [_evidence_shown(e, judgement, published, confidence) for e in judgement.evidence],
    }


def _evidence_shown(
    e: Evidence, judgement: ClaimVerdict, published: Mapping[str, Any], confidence: float
) -> dict[str, Any]:
    claim, kind = judgement.claim, KINDS[e.verdict]
    at_least = claim.at_least.get(e.metric, 0.0)
    gain = published_gain(published, claim.arm, claim.other, e.metric)
    line = {"label": words(e.metric).label, "arrow": ARROWS[e.better], "kind": kind, "mark": MARKS[kind]}
    if at_least:
        line["label"] += f", by at least {number(at_least)}"
    difference, low, high = together(e.difference, e.low, e.high)
    figures = {"difference": difference, "low": low, "high": high, "pairs": e.pairs, "absent": e.verdict == ABSENT}
    reason = "; ".join(filter(None, [e.reason, prompts_that_tell(e, confidence, gain, at_least)]))
    beside = ""
    if not math.isnan(gain) and e.pairs:
        beside = f"ours {signed(points_of(e.metric) * e.difference, 2)}, published {signed(gain)} points"
    return line | figures | {"reading": READINGS[e.verdict], "reason": reason, "beside": beside}


def prompts_that_tell(found: Evidence, confidence: float, gain: float = math.nan, at_least: float = 0.0) -> str:
    """How many prompts would tell what these could not; '' where there is nothing to say.

    Args:
        found: What was seen.
        confidence: Of its interval.
        gain: The published difference of the same two, in percentage points; NaN: none.
        at_least: What the difference has to exceed, on the metric's own scale.
    """
    if found.verdict != OPEN or found.found is None or not found.found.clips:
        return ""
    ways = {"as large as the one seen": found.needed}
    published = (gain if found.better == "higher" else -gain) / points_of(found.metric) - at_least
    if published > 0:
        ways["as large as the published one"] = prompts_needed(found.found, published, confidence)
    told = [f"{count:,} prompts would tell a difference {size}" for size, count in ways.items() if count]
    if told:
        return f"about {', '.join(told)}, four times in five"
    return "no number of prompts would tell it" + (": training seeds differ by more" if found.found.of_seeds else "")


def verdict_line(claims: Sequence[Mapping[str, Any]]) -> str:
    """How many claims have which verdict, in one sentence; '' where none was put to the test."""
    counts = Counter(str(claim["verdict"]) for claim in claims)
    if not counts:
        return ""
    order = sorted(counts, key=list(KINDS).index)
    said = [f"{counts[verdict]} {_plural(verdict) if counts[verdict] > 1 else verdict}" for verdict in order]
    listed = said[0] if len(said) == 1 else f"{', '.join(said[:-1])} and {said[-1]}"
    return f"Of {sum(counts.values())} claim{'s' * (len(claims) > 1)}, {listed}."


def _plural(verdict: str) -> str:
    return {HOLDS: "hold", FAILS: "do not hold"}.get(verdict, verdict)


def keys(claims: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """The mark of every verdict that was given, and its words."""
    found = {str(claim["verdict"]): str(claim["mark"]) for claim in claims}
    return [(found[verdict], verdict) for verdict in sorted(found, key=list(KINDS).index)]


def points_of(metric: str) -> float:
    """By what our scores are multiplied to stand beside published percentages."""
    known = METRICS.get(metric)
    return 100.0 if known and known.family in _POINTS else 1.0


def signed(value: float, decimals: int = 1) -> str:
    """A difference in points with its sign and a true minus; published ones have one decimal."""
    return f"{value:+.{decimals}f}".replace("-", "−")
