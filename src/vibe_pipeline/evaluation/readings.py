"""What the paired difference of two arms on one metric says: better, worse, equivalent, or nothing yet."""

import math
from dataclasses import dataclass, field, replace
from typing import Literal

import pandas as pd

from vibe_pipeline.evaluation.bootstrap import DEFAULT_BOOTSTRAP, Bootstrap
from vibe_pipeline.evaluation.differences import Difference, paired_difference
from vibe_pipeline.evaluation.estimates import YesNo
from vibe_pipeline.evaluation.power import prompts_for_equivalence, prompts_needed

Side = Literal["higher", "lower"]
Verdict = Literal[
    "holds", "mixed", "equivalent", "does not hold", "cannot be told from this data", "not measured", "not run"
]
HOLDS: Verdict = "holds"
MIXED: Verdict = "mixed"
EQUIVALENT: Verdict = "equivalent"
FAILS: Verdict = "does not hold"
OPEN: Verdict = "cannot be told from this data"
ABSENT: Verdict = "not measured"
NOT_RUN: Verdict = "not run"


@dataclass(frozen=True)
class Question:
    """Whether one arm is better than another on a metric.

    Attributes:
        metric: Its name.
        better: Its better side.
        margin: A difference that lies within it is negligible; 0: none is.
        at_least: By how much it has to be better; margins are then about that gain.
    """

    metric: str
    better: Side
    margin: float = 0.0
    at_least: float = 0.0

    @property
    def limit(self) -> float:
        """The difference, arm − other, that `at_least` stands for."""
        return self.at_least if self.better == "higher" or not self.at_least else -self.at_least

    def gains(self, *differences: float) -> list[float]:
        """Differences as gains over `at_least`, from low to high."""
        return sorted((d if self.better == "higher" else -d) - self.at_least for d in differences)


@dataclass(frozen=True)
class Evidence:
    """What one metric says about a claim; `difference` is arm − other, with the bootstrap's interval.

    Attributes:
        question: What was asked.
        verdict: What it says by itself.
        corrected: What it says as one of `family` questions.
        reason: Why it says no more.
        difference: Mean over prompts.
        low: Of its interval.
        high: Of its interval.
        pairs: Prompts that went in.
        p_different: Largest p-value of the tests of there being no difference; NaN where there is none.
        p_equivalent: Largest of the tests of the difference not lying within the margin.
        corrected_different: The first, corrected for the family and, where prompts grow, for all looks.
        corrected_equivalent: The second, likewise.
        family: How many questions they are corrected for.
        needed: Of what cannot be told, prompts that would tell a difference as large as the one seen, or show one as
            small to be equivalent; None: no number.
        found: The difference in full; None where there is none. How many clips it is of changes nothing said here.
    """

    question: Question
    verdict: Verdict
    corrected: Verdict
    reason: str = ""
    difference: float = math.nan
    low: float = math.nan
    high: float = math.nan
    pairs: int = 0
    p_different: float = math.nan
    p_equivalent: float = math.nan
    corrected_different: float = math.nan
    corrected_equivalent: float = math.nan
    family: int = 1
    needed: int | None = None
    found: Difference | None = field(default=None, compare=False)

    @property
    def metric(self) -> str:
        """Its name."""
        return self.question.metric

    @property
    def negligible(self) -> bool:
        """Whether the difference seen, whatever its interval, lies within the margin."""
        return abs(self.question.gains(self.difference)[0]) < self.question.margin


def compare_on_metric(
    scores: pd.DataFrame, arm: str, other: str, question: Question, bootstrap: Bootstrap = DEFAULT_BOOTSTRAP
) -> Evidence:
    """What one metric says about `arm` being better than `other`."""
    found = None if scores.empty else paired_difference(scores, arm, other, question.metric, bootstrap)
    if found is None or not found.prompts:
        return Evidence(question, ABSENT, ABSENT, why_missing(scores, (arm, other), question.metric))
    return read(question, found, bootstrap)


def read(question: Question, found: Difference, bootstrap: Bootstrap = DEFAULT_BOOTSTRAP) -> Evidence:
    """What a difference of at least one prompt says by itself."""
    seen = Evidence(
        question, OPEN, OPEN, difference=found.mean, low=found.low, high=found.high, pairs=found.prompts, found=found
    )
    if why := _why_no_interval(found, bootstrap):
        return _with_prompts(replace(seen, reason=why), bootstrap)
    tests, limit = found.tests.values(), question.limit
    seen = replace(
        seen,
        p_different=max(test.p_different(limit) for test in tests),
        p_equivalent=max(test.p_equivalent(question.margin, limit) for test in tests),
    )
    alone = bootstrap.look.over_all(seen.p_different), bootstrap.look.over_all(seen.p_equivalent)
    seen = replace(seen, corrected_different=alone[0], corrected_equivalent=alone[1])
    return corrected(replace(seen, verdict=_read(seen, bootstrap)), *alone, 1, bootstrap)


def corrected(evidence: Evidence, different: float, equivalent: float, family: int, bootstrap: Bootstrap) -> Evidence:
    """The evidence as one of a family of questions, by its corrected p-values."""
    if math.isnan(evidence.p_different):
        return evidence
    seen = replace(evidence, corrected_different=different, corrected_equivalent=equivalent, family=family)
    said = _read(seen, bootstrap)
    reason = "; ".join(filter(None, [_reason(seen, said, bootstrap), seen.found.note if seen.found else ""]))
    return _with_prompts(replace(seen, corrected=said, reason=reason), bootstrap)


def why_missing(scores: pd.DataFrame, arms: tuple[str, ...], metric: str) -> str:
    """The reasons the scores give for a metric's absence, or that there are none."""
    if scores.empty:
        return "no scores in this run"
    rows = scores[(scores["metric"] == metric) & scores["arm"].isin(arms)]
    given = [str(r) for r in rows.get("reason", pd.Series(dtype=object)).dropna().unique() if str(r).strip()]
    return "; ".join(given) or "not scored for both arms on the same clips"


def _why_no_interval(found: Difference, bootstrap: Bootstrap) -> str:
    n = found.prompts
    if not found.has_interval:
        return "one figure an arm has no interval"
    if n < bootstrap.fewest_pairs:
        return f"only {n} prompt{'s' * (n != 1)}; an interval needs {bootstrap.fewest_pairs}"
    return ""


def _read(seen: Evidence, bootstrap: Bootstrap) -> Verdict:
    """The rule for one metric: what the bootstrap's interval and every test, by its corrected p-value, tell alike.

    Equivalent, if both lie within the margin. Else better or worse, if both exclude no difference and the difference
    seen is no smaller than the margin. Else it cannot be told.
    """
    asked, tail = seen.question, 1 - bootstrap.confidence
    (low, high), (gain,) = asked.gains(seen.low, seen.high), asked.gains(seen.difference)
    if -asked.margin < low and high < asked.margin and seen.corrected_equivalent <= tail:
        return EQUIVALENT
    if (low > 0 or high < 0) and seen.corrected_different <= tail and not seen.negligible:
        return HOLDS if gain > 0 else FAILS
    return OPEN


def _reason(seen: Evidence, said: Verdict, bootstrap: Bootstrap) -> str:
    """Why the evidence says no more than it does."""
    asked, (low, high) = seen.question, seen.question.gains(seen.low, seen.high)
    about = f" about the gain of {asked.at_least:g}" if asked.at_least else ""
    if said == EQUIVALENT:
        return f"the difference lies within the margin of {asked.margin:g}{about}"
    if said == FAILS and asked.at_least and high > -asked.at_least:
        return f"the gain is below {asked.at_least:g}"
    if said != OPEN:
        return ""
    if seen.verdict != OPEN:
        p = seen.corrected_equivalent if seen.verdict == EQUIVALENT else seen.corrected_different
        return f"{seen.verdict} by itself; corrected over {seen.family} tests p = {p:.2g}"
    if not (low > 0 or high < 0):
        return f"the interval of the difference contains {asked.limit:g}"
    look, tail = bootstrap.look, bootstrap.look.level(1 - bootstrap.confidence)
    unsure = [name for name, test in _tests(seen) if test.p_different(asked.limit) > tail]
    if unsure and look.blocks:
        return f"p = {seen.p_different:.2g}, and {look.said} tells from {tail:.2g} on"
    if unsure and isinstance(seen.found and seen.found.tests[unsure[-1]], YesNo):
        return f"the exact test has p = {seen.p_different:.2g}"
    if unsure:
        return f"the t-interval over {unsure[0]} contains {asked.limit:g}"
    return f"the difference lies within the margin of {asked.margin:g}{about}, its interval does not"


def _tests(seen: Evidence) -> list:
    return list(seen.found.tests.items()) if seen.found else []


def _with_prompts(seen: Evidence, bootstrap: Bootstrap) -> Evidence:
    """The evidence and, of what cannot be told, how many prompts would tell it."""
    if seen.corrected != OPEN or seen.found is None or not seen.found.has_interval:
        return seen
    confidence = level(seen, bootstrap)
    (gain,) = seen.question.gains(seen.difference)
    if seen.negligible:
        needed = prompts_for_equivalence(seen.found, gain, seen.question.margin, confidence)
    else:
        needed = prompts_needed(seen.found, gain, confidence)
    return replace(seen, needed=needed)


def level(seen: Evidence, bootstrap: Bootstrap) -> float:
    """The confidence that is enough for the evidence to be told, whatever its rank in the family; at the last look."""
    return 1 - bootstrap.look.last.level((1 - bootstrap.confidence) / seen.family)
