"""A claim's verdict: the primary measure decides, secondary ones can make it mixed, and the family corrects it."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.one_claim import evaluate_claim
from vibe_pipeline.evaluation.claims import MEANINGS, judge_claims
from vibe_pipeline.evaluation.readings import ABSENT, EQUIVALENT, FAILS, HOLDS, MIXED, NOT_RUN, OPEN, Verdict
from vibe_pipeline.experiment.claims import Asked, Claim, load_claims

CONF = Path(__file__).parents[2] / "conf"
# One difference of about 1 for certain, its interval about .4 wide; its contrary; nothing for certain; next to nothing.
UP, DOWN = list(np.linspace(0.5, 1.5, 10)), list(np.linspace(-1.5, -0.5, 10))
APART, SMALL = [-1.0, 1.0] * 5, list(np.linspace(0.05, 0.15, 10))
SHOWS: dict[Verdict, list[float]] = {HOLDS: UP, FAILS: DOWN, OPEN: APART, EQUIVALENT: SMALL}


def asked(metric: str) -> Asked:
    return Asked(metric=metric, better="higher", margin=0.3)


CLAIM = Claim(
    name="c", statement="a beats b", kind="k", arm="a", other="b", primary=asked("p"),
    secondary=(asked("s"), asked("t")),
)  # fmt: skip


def scores(arm: str = "a", **differences: list[float]) -> pd.DataFrame:
    """Scores of an arm and of b whose paired differences are those given, over very unlike prompts."""
    rows = []
    for metric, values in differences.items():
        for prompt, value in enumerate(values):
            rows += [(arm, prompt, 0, metric, 10.0 * prompt + value), ("b", prompt, 0, metric, 10.0 * prompt)]
    table = pd.DataFrame(rows, columns=["arm", "prompt_index", "seed", "metric", "value"])
    return table.assign(direction="higher", family="detail", status="scored", reason="")


@pytest.mark.parametrize(("primary", "one", "other"), itertools.product(SHOWS, SHOWS, (HOLDS, FAILS)))
def test_the_primary_measure_decides_and_secondary_ones_only_make_it_mixed(
    primary: Verdict, one: Verdict, other: Verdict
) -> None:
    judgement = evaluate_claim(CLAIM, scores(p=SHOWS[primary], s=SHOWS[one], t=SHOWS[other]))
    against = FAILS in (one, other)
    assert judgement.verdict == judgement.corrected == (MIXED if primary == HOLDS and against else primary)
    assert [e.verdict for e in judgement.evidence] == [primary, one, other]


def test_a_negligible_difference_is_neutral_however_certain() -> None:
    against = scores(p=UP, s=[-value for value in SMALL], t=UP)
    judgement = evaluate_claim(CLAIM, against)
    assert judgement.evidence[1].high < 0 and judgement.evidence[1].verdict == EQUIVALENT
    assert judgement.verdict == HOLDS and judgement.reason == "secondary measures: 1 for, 1 equivalent"


def test_what_the_secondary_measures_say_is_counted() -> None:
    assert evaluate_claim(CLAIM, scores(p=UP, s=DOWN)).reason == "secondary measures: 1 against, 1 not measured"
    assert evaluate_claim(CLAIM.model_copy(update={"secondary": ()}), scores(p=UP)).reason == ""


def test_a_secondary_measure_that_is_missing_does_not_keep_a_claim_from_holding() -> None:
    judgement = evaluate_claim(CLAIM, scores(p=UP, s=UP))
    assert (judgement.verdict, judgement.evidence[2].verdict) == (HOLDS, ABSENT)


def test_without_the_primary_measure_it_is_not_measured_and_without_an_arm_not_run() -> None:
    table = scores(p=UP, s=UP, t=UP)
    table.loc[table["metric"] == "p", ["value", "status", "reason"]] = [np.nan, "skipped", "no weights"]
    judgement = evaluate_claim(CLAIM, table)
    assert (judgement.verdict, judgement.corrected, judgement.reason) == (ABSENT, ABSENT, "no weights")
    gone = evaluate_claim(CLAIM.model_copy(update={"other": "z"}), table)
    assert (gone.verdict, gone.corrected, gone.reason, gone.evidence) == (NOT_RUN, NOT_RUN, "not in this run: z", ())
    assert evaluate_claim(CLAIM, pd.DataFrame()).verdict == NOT_RUN


def test_by_at_least_so_much_is_asked_of_the_primary_measure_alone() -> None:
    table = scores(p=UP, s=UP, t=UP)
    judgement = evaluate_claim(CLAIM.model_copy(update={"at_least": 2.0}), table)
    assert [e.verdict for e in judgement.evidence] == [FAILS, HOLDS, HOLDS] and judgement.verdict == FAILS
    assert evaluate_claim(CLAIM.model_copy(update={"at_least": 0.4}), table).verdict == HOLDS


def weakly(effect: float, prompts: int = 12) -> list[float]:
    """Differences whose t-test has about the p-value wanted: a mean over a spread of 1."""
    values = np.random.default_rng(0).standard_normal(prompts)
    return list(effect + (values - values.mean()) / values.std(ddof=1))


def family(effects: list[float]) -> tuple[list[Claim], pd.DataFrame]:
    """Claims of arms against b, each with a primary measure of its own strength and one secondary."""
    claims = [
        CLAIM.model_copy(update={"name": f"c{i}", "arm": f"a{i}", "secondary": (asked("s"),)})
        for i in range(len(effects))
    ]
    tables = [scores(f"a{i}", p=weakly(effect), s=UP + UP[:2]) for i, effect in enumerate(effects)]
    return claims, pd.concat(tables).drop_duplicates(["arm", "prompt_index", "metric"])


def test_claims_of_a_report_are_corrected_for_how_many_there_are() -> None:
    """Three claims whose p-values are about .002, .02 and .04: as three all hold, as five the first alone."""
    claims, table = family([1.2, 0.8, 0.7])
    found = judge_claims(claims, table)
    p = [judgement.evidence[0].p_different for judgement in found]
    assert p[0] < 0.05 / 3 and 0.05 / 2 > p[1] > 0.05 / 3 and 0.05 > p[2] > 0.025
    assert [j.verdict for j in found] == [HOLDS] * 3
    assert [j.corrected for j in found] == [HOLDS, HOLDS, HOLDS], "each by the step that is its own"
    assert [j.evidence[0].corrected_different for j in found] == pytest.approx(
        [3 * p[0], 2 * p[1], max(2 * p[1], p[2])]
    )
    more = judge_claims([*claims, *(c.model_copy(update={"other": "gone"}) for c in claims)], table)
    assert [j.corrected for j in more[:3]] == [HOLDS] * 3, "claims that were not run are not in the family"
    others, nothing = family([1.2, 0.8, 0.7, 0.0, 0.05])
    assert [j.verdict for j in judge_claims(others, nothing)] == [HOLDS] * 3 + [OPEN] * 2
    assert [j.corrected for j in judge_claims(others, nothing)] == [HOLDS] + [OPEN] * 4
    assert {j.evidence[0].family for j in judge_claims(others, nothing)} == {5}
    assert evaluate_claim(others[1], nothing).corrected == HOLDS, "alone it is its own family"


def test_secondary_measures_are_corrected_over_each_other_and_not_over_the_claims() -> None:
    many = tuple(asked(name) for name in "stuvw")
    claim = CLAIM.model_copy(update={"secondary": many})
    against = [-value for value in weakly(0.7)]
    table = scores(p=UP + UP[:2], s=against, **{name: weakly(0.0) for name in "tuvw"})
    judgement = evaluate_claim(claim, table)
    assert (judgement.verdict, judgement.corrected) == (MIXED, HOLDS)
    assert judgement.evidence[1].family == 5 and judgement.evidence[0].family == 1
    alone = evaluate_claim(CLAIM.model_copy(update={"secondary": many[:1]}), table)
    assert (alone.verdict, alone.corrected) == (MIXED, MIXED)


def test_equivalence_is_corrected_as_a_family_of_its_own() -> None:
    claims, table = family([1.2, 0.0, 0.01])
    wide = [c.model_copy(update={"primary": c.primary.model_copy(update={"margin": 0.68})}) for c in claims]
    found = judge_claims(wide, table)
    assert [j.verdict for j in found] == [HOLDS, EQUIVALENT, EQUIVALENT]
    assert [j.corrected for j in found] == [HOLDS, OPEN, OPEN]
    assert judge_claims(wide[1:2], table)[0].corrected == EQUIVALENT


def test_every_verdict_has_a_meaning() -> None:
    assert list(MEANINGS) == [HOLDS, MIXED, EQUIVALENT, FAILS, OPEN, ABSENT, NOT_RUN]
    assert all(said and not said.endswith(".") for said in MEANINGS.values())


@pytest.mark.parametrize("path", sorted(CONF.glob("*/claims.yml")), ids=lambda path: path.parent.name)
def test_every_environments_claims_are_of_kinds_with_one_primary_measure(path: Path) -> None:
    claims = load_claims(path)
    # What is chosen on its own prompts claims nothing, nor does what is compared with another run.
    assert bool(claims) != path.parent.name.endswith(("_tuning", "_native", "_quantised"))
    measures = {claim.kind: [asked.metric for asked in claim.measures] for claim in claims}
    for claim in claims:
        assert [asked.metric for asked in claim.measures] == measures[claim.kind], (
            "the same set in every claim of a kind"
        )
        assert all(asked.margin > 0 for asked in claim.measures)
    margins: dict[str, set[float]] = {}
    for asked_ in (asked for claim in claims for asked in claim.measures):
        margins.setdefault(asked_.metric, set()).add(asked_.margin)
    assert all(len(found) == 1 for found in margins.values()), "one margin a measure"
