"""How the page says what a claim or a comparison came to."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from vibe_pipeline.evaluation.bootstrap import Bootstrap
from vibe_pipeline.evaluation.claims import ClaimVerdict
from vibe_pipeline.evaluation.metrics.registry import METRICS
from vibe_pipeline.evaluation.power import prompts_needed
from vibe_pipeline.evaluation.readings import (
    ABSENT,
    EQUIVALENT,
    FAILS,
    HOLDS,
    MIXED,
    NOT_RUN,
    OPEN,
    Evidence,
    level,
)
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.reporting.glossary import ARROWS, number, together, words
from vibe_pipeline.reporting.published import published_difference, published_gain
from vibe_pipeline.reporting.tables import arm_label

KINDS: dict[str, str] = {HOLDS: "holds", FAILS: "fails", MIXED: "open", EQUIVALENT: "open", OPEN: "open"}
KINDS |= {ABSENT: "absent", NOT_RUN: "absent"}
MARKS = {HOLDS: "✓", MIXED: "±", EQUIVALENT: "≈", FAILS: "✗", OPEN: "?", ABSENT: "–", NOT_RUN: "–"}
READINGS = {HOLDS: "clearly for", FAILS: "clearly against", EQUIVALENT: "equivalent", OPEN: "unclear"}
READINGS |= {ABSENT: "not measured"}
_POINTS = frozenset({"vbench", "overall", "totals"})
"""Families whose scores are fractions that papers print times 100."""


def claim_shown(
    judgement: ClaimVerdict,
    arms: Mapping[str, ArmParams],
    published: Mapping[str, Any],
    bootstrap: Bootstrap,
    not_run: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """A claim with its evidence, for the template; `not_run` says of arms that were left out why.

    The verdict is the corrected one; what the claim says by itself stands beside. Why something is missing is said
    once, in the list of what was skipped, to which `absent` leads.
    """
    claim = judgement.claim
    reasons = [why for arm, why in (not_run or {}).items() if arm in (claim.arm, claim.other)]
    gains = published_difference(published, claim.arm, claim.other)
    look = bootstrap.look.said if judgement.evidence else ""
    told = "" if judgement.verdict == ABSENT else judgement.reason
    return {
        "name": claim.name.replace("_", " "),
        "statement": claim.statement,
        "source": claim.source,
        "compared": f"{arm_label(claim.arm, arms)} − {arm_label(claim.other, arms)}",
        "verdict": judgement.corrected,
        "kind": KINDS[judgement.corrected],
        "mark": MARKS[judgement.corrected],
        "reason": "; ".join(filter(None, [look, _alone(judgement), told])),
        "absent": judgement.verdict == ABSENT or bool(reasons),
        "published": ", ".join(f"{label} {signed(gain)}" for label, gain in gains.items()),
        "evidence": [_evidence_shown(e, judgement, published, bootstrap) for e in judgement.evidence],
    }


def look_line(bootstrap: Bootstrap, before: Mapping[str, Sequence[int]]) -> str:
    """What of all verdicts is due to several looks at growing data, in a sentence or two; '' where nothing is.

    Args:
        bootstrap: How they were judged.
        before: By claim, prompts of looks before that nothing is corrected for.
    """
    tail, said = 1 - bootstrap.confidence, ""
    if bootstrap.look.blocks:
        level = f"a claim by itself is told at level {bootstrap.look.level(tail):.2g}"
        said = f"{bootstrap.look.said.capitalize()}: {level}, so that all looks together keep {tail:.2g}."
    if before:
        who = "A claim was" if len(before) == 1 else f"{len(before)} claims were"
        said += f" {who} looked at before on fewer of these prompts, which nothing is corrected for."
    return said.strip()


def _alone(judgement: ClaimVerdict) -> str:
    """What the claim says by itself, where others were tested beside it."""
    family = judgement.evidence[0].family if judgement.evidence else 1
    return f"by itself {judgement.verdict}; corrected over {family} claims {judgement.corrected}" if family > 1 else ""


def _evidence_shown(
    e: Evidence, judgement: ClaimVerdict, published: Mapping[str, Any], bootstrap: Bootstrap
) -> dict[str, Any]:
    claim, asked = judgement.claim, e.question
    gain = published_gain(published, claim.arm, claim.other, e.metric)
    line = {"label": words(e.metric).label, "arrow": ARROWS[asked.better], "kind": KINDS[e.corrected]}
    line["label"] += ", primary" if e is judgement.evidence[0] else ""
    if asked.at_least:
        line["label"] += f", by at least {number(asked.at_least)}"
    difference, low, high = together(e.difference, e.low, e.high)
    figures = {"difference": difference, "low": low, "high": high, "pairs": e.pairs, "absent": e.verdict == ABSENT}
    reason = "; ".join(filter(None, [e.reason, prompts_that_tell(e, bootstrap, gain)]))
    beside = _tests_shown(e, bootstrap)
    if not math.isnan(gain) and e.pairs:
        beside.append(f"ours {signed(points_of(e.metric) * e.difference, 2)}, published {signed(gain)} points")
    said = {"mark": MARKS[e.corrected], "reading": READINGS[e.corrected], "reason": reason, "beside": "; ".join(beside)}
    return line | figures | said


def _tests_shown(e: Evidence, bootstrap: Bootstrap) -> list[str]:
    """The margin, the p-values, with several training seeds the t-intervals, with several looks that of all of them."""
    if math.isnan(e.p_different) or e.found is None:
        return []
    told = {"different": (e.p_different, e.corrected_different)}
    told |= {"equivalent": (e.p_equivalent, e.corrected_equivalent)} if e.corrected == EQUIVALENT else {}
    said = [f"margin {number(e.question.margin)}"]
    for what, (alone, corrected) in told.items():
        beside = f", corrected {corrected:.2g}" if e.family > 1 or bootstrap.look.blocks else ""
        said.append(f"{what}: p {alone:.2g}{beside}")
    if e.found.training_seeds > 1:
        for name, test in e.found.tests.items():
            low, high = test.interval(bootstrap.confidence)
            said.append(f"over {name} [{number(low)}, {number(high)}]")
    if bootstrap.look.blocks:
        low, high = e.found.crossed.interval(1 - bootstrap.look.level(1 - bootstrap.confidence))
        said.append(f"of all looks [{number(low)}, {number(high)}]")
    return said


def prompts_that_tell(found: Evidence, bootstrap: Bootstrap, gain: float = math.nan) -> str:
    """How many prompts would tell what these could not; '' where there is nothing to say.

    Args:
        found: What was seen.
        bootstrap: Of its interval.
        gain: The published difference of the same two, in percentage points; NaN: none.
    """
    if found.corrected != OPEN or found.found is None or not found.found.has_interval:
        return ""
    size = "as small as the one seen to be equivalent" if found.negligible else "as large as the one seen"
    ways = {size: found.needed}
    gained = gain if found.question.better == "higher" else -gain
    published = gained / points_of(found.metric) - found.question.at_least
    if published > 0:
        ways["as large as the published one"] = prompts_needed(found.found, published, level(found, bootstrap))
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
    said = [f"{counts[verdict]} {_predicate(verdict, counts[verdict] > 1)}" for verdict in order]
    listed = said[0] if len(said) == 1 else f"{', '.join(said[:-1])} and {said[-1]}"
    return f"Of {sum(counts.values())} claim{'s' * (len(claims) > 1)}, {listed}."


def _predicate(verdict: str, several: bool) -> str:
    plurals: dict[str, str] = {HOLDS: "hold", FAILS: "do not hold"}
    if verdict in plurals:
        return plurals[verdict] if several else verdict
    return verdict if verdict == OPEN else f"{'are' if several else 'is'} {verdict}"


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
