"""What one measure says follows from its bootstrap interval, the tests beside it, and its margin."""

from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest

from vibe_pipeline.evaluation.bootstrap import Bootstrap
from vibe_pipeline.evaluation.readings import (
    ABSENT,
    EQUIVALENT,
    FAILS,
    HOLDS,
    OPEN,
    Evidence,
    Question,
    compare_on_metric,
    corrected,
)

BOOTSTRAP = Bootstrap()
UP, DOWN = list(np.linspace(0.5, 1.5, 10)), list(np.linspace(-1.5, -0.5, 10))
APART = [-1.0, 1.0] * 5


def scores(**differences: list[float]) -> pd.DataFrame:
    """Scores of arms a and b whose paired differences a − b are those given, over very unlike prompts."""
    rows = []
    for metric, values in differences.items():
        for prompt, value in enumerate(values):
            rows += [("a", prompt, 0, metric, 10.0 * prompt + value), ("b", prompt, 0, metric, 10.0 * prompt)]
    table = pd.DataFrame(rows, columns=["arm", "prompt_index", "seed", "metric", "value"])
    return table.assign(direction="lower", family="detail", status="scored", reason="")


def seeded(matrix: np.ndarray) -> pd.DataFrame:
    """Scores of arm a [prompts, training seeds] against b, which was not trained and has 0 everywhere."""
    rows = [("b", p, 0, "", 0.0) for p in range(len(matrix))]
    rows += [("a", p, 0, str(s), value) for p, row in enumerate(matrix) for s, value in enumerate(row)]
    table = pd.DataFrame(rows, columns=["arm", "prompt_index", "seed", "training_seed", "value"])
    return table.assign(metric="m", direction="lower", family="detail", status="scored", reason="")


def asked(table: pd.DataFrame, metric: str = "m", **question) -> Evidence:
    return compare_on_metric(table, "a", "b", Question(metric, **{"better": "lower"} | question), BOOTSTRAP)


@pytest.mark.parametrize(
    ("differences", "margin", "verdict"),
    [
        (DOWN, 0.5, HOLDS),  # -1 ± .24
        (UP, 0.5, FAILS),
        (APART, 0.5, OPEN),
        (DOWN, 2.0, EQUIVALENT),  # certain, and too small to matter: neither for nor against
        (UP, 2.0, EQUIVALENT),
        (DOWN, 1.1, OPEN),  # certain, smaller than the margin as seen, but not for certain
        (UP, 1.1, OPEN),
        (list(np.linspace(-0.4, 0.4, 10)), 0.5, EQUIVALENT),
        (APART, 1.0, EQUIVALENT),
        (APART, 0.65, OPEN),  # the bootstrap's interval lies within, that of t does not
    ],
)
def test_a_measures_verdict(differences: list[float], margin: float, verdict: str) -> None:
    found = asked(scores(m=differences), margin=margin)
    assert (found.verdict, found.corrected) == (verdict, verdict)


def test_the_bootstrap_has_to_agree_with_the_tests() -> None:
    told, small = asked(scores(m=DOWN), margin=0.5), asked(scores(m=DOWN), margin=2.0)
    for found, low, high in ((told, -2.0, 0.1), (small, -2.1, 0.0), (small, 0.0, 2.1)):
        wider = corrected(replace(found, low=low, high=high), 0.0, 0.0 if found is small else 1.0, 1, BOOTSTRAP)
        assert wider.corrected == OPEN


def test_without_a_margin_nothing_is_negligible() -> None:
    assert asked(scores(m=[-1e-6 - 1e-8 * i for i in range(10)])).verdict == HOLDS
    assert asked(scores(m=[0.0] * 10)).verdict == OPEN
    assert asked(scores(m=[0.0] * 10), margin=0.1).verdict == EQUIVALENT


def test_why_it_cannot_be_told() -> None:
    assert asked(scores(m=APART), margin=0.5).reason == "the interval of the difference contains 0"
    within = asked(scores(m=DOWN), margin=1.1).reason
    assert within == "the difference lies within the margin of 1.1, its interval does not"
    assert asked(scores(m=DOWN), margin=2.0).reason == "the difference lies within the margin of 2"
    assert "-0" not in asked(scores(m=APART)).reason


def test_few_prompts_cannot_tell() -> None:
    found = asked(scores(m=[-1.0] * 5))
    assert found.verdict == OPEN and "only 5 prompts" in found.reason and np.isnan(found.p_different)
    assert Bootstrap().fewest_pairs == 6
    assert Bootstrap(confidence=0.5).fewest_pairs == 2


def test_by_at_least_so_much() -> None:
    """The whole interval has to lie beyond it; one between it and 0 speaks against the claim."""
    for better, differences in (("lower", DOWN), ("higher", UP)):  # gains of 1, intervals about .4 wide
        ask = {"better": better, "margin": 0.1}
        found = {least: asked(scores(m=differences), at_least=least, **ask) for least in (0.5, 1.05, 2.0)}
        assert {least: e.verdict for least, e in found.items()} == {0.5: HOLDS, 1.05: OPEN, 2.0: FAILS}
        sign = "-" if better == "lower" else ""
        assert found[1.05].reason == f"the interval of the difference contains {sign}1.05"
        assert found[2.0].reason == "the gain is below 2"
        near = asked(scores(m=differences), at_least=1.05, better=better, margin=0.6)
        assert (near.verdict, near.reason) == (
            EQUIVALENT, "the difference lies within the margin of 0.6 about the gain of 1.05",
        )  # fmt: skip


def test_training_seeds_that_disagree_keep_a_difference_from_being_told() -> None:
    """With few of them the bootstrap's interval is too narrow; t over training seeds is not told by prompts."""
    rng = np.random.default_rng(0)
    matrix = -1 + np.array([-0.8, 0.0, 0.8]) + 0.1 * rng.standard_normal((64, 3))
    found = asked(seeded(matrix), margin=0.1)
    assert found.high < 0, "the bootstrap alone would tell it"
    assert found.verdict == OPEN and found.reason.startswith("the t-interval over prompts and training seeds contains")
    told = asked(seeded(matrix - 4), margin=0.1)
    assert told.verdict == HOLDS and told.p_different == max(
        test.p_different() for test in (told.found.seeds, told.found.crossed)
    )


def test_t_over_training_seeds_decides_where_random_effects_see_no_variance_of_theirs() -> None:
    """Seeds no further apart than their clips explain; three figures that lie apart still are little to go by."""
    rng = np.random.default_rng(1)
    matrix = rng.standard_normal((64, 3))
    matrix += -0.23 - matrix.mean(0) + np.array([-0.1, 0.0, 0.1])
    found = asked(seeded(matrix), margin=0.001)
    assert found.high < 0 and found.found.crossed.p_different() < 0.05 < found.found.seeds.p_different()
    assert (found.verdict, found.reason) == (OPEN, "the t-interval over training seeds contains 0")


def right(*pairs: tuple[float, float]) -> pd.DataFrame:
    """Clips of a and b that are right (1) or wrong (0), one a prompt."""
    rows = [(arm, p, 0, v) for p, values in enumerate(pairs) for arm, v in zip("ab", values, strict=True)]
    table = pd.DataFrame(rows, columns=["arm", "prompt_index", "seed", "value"])
    return table.assign(metric="m", direction="higher", family="miniature", status="scored", reason="")


def test_a_yes_or_no_measure_is_told_by_an_exact_test() -> None:
    """Five prompts to none is no proof (p = 2 · .5⁵), though bootstrap and t say so; six to none is."""
    five, six = (right(*[(1, 0)] * n, *[(1, 1)] * (40 - n)) for n in (5, 6))
    found = asked(five, better="higher", margin=0.01)
    assert found.low > 0 and found.found.crossed.p_different() < 0.05
    assert found.p_different == pytest.approx(0.0625)
    assert (found.verdict, found.reason) == (OPEN, "the exact test has p = 0.062")
    assert asked(six, better="higher", margin=0.01).verdict == HOLDS
    assert asked(six, better="lower", margin=0.01).verdict == FAILS


def test_arms_that_are_never_unlike_are_equivalent_only_with_enough_prompts() -> None:
    few, many = (right(*[(1, 1)] * n) for n in (20, 100))
    assert asked(few, better="higher", margin=0.05).verdict == OPEN
    assert asked(many, better="higher", margin=0.05).verdict == EQUIVALENT


def test_corrected_p_values_decide_the_corrected_verdict() -> None:
    found = asked(scores(m=DOWN), margin=0.5)
    later = corrected(found, 0.2, 1.0, 7, BOOTSTRAP)
    spread = np.std(np.linspace(-2.2, 0.2, 10), ddof=1)
    assert (later.verdict, later.corrected) == (HOLDS, OPEN)
    assert later.reason == "holds by itself; corrected over 7 tests p = 0.2"
    many = corrected(asked(scores(m=list(np.linspace(-2.2, 0.2, 10)))), 0.2, 1.0, 7, BOOTSTRAP)
    at_ends = NormalDist().inv_cdf(1 - 0.05 / 7 / 2)
    assert many.needed == pytest.approx((at_ends + 0.8416) ** 2 * spread**2, abs=1), "a level enough for 7 tests"
    small = corrected(asked(scores(m=DOWN), margin=2.0), 1.0, 0.3, 7, BOOTSTRAP)
    assert (small.verdict, small.corrected) == (EQUIVALENT, OPEN) and "p = 0.3" in small.reason
    assert corrected(replace(found, p_different=np.nan), 0.2, 1.0, 7, BOOTSTRAP).corrected == HOLDS


def test_what_cannot_be_told_says_how_many_prompts_would_tell_it() -> None:
    slight = [-1.0, 1.2] * 5
    found = asked(scores(m=slight), better="higher")
    assert found.verdict == OPEN and found.difference == pytest.approx(0.1)
    assert found.needed == pytest.approx(7.849 * (np.std(slight, ddof=1) / 0.1) ** 2, rel=0.01)
    against = asked(scores(m=slight), better="higher", at_least=0.3)
    assert against.needed == pytest.approx(7.849 * (np.std(slight, ddof=1) / 0.2) ** 2, rel=0.01)
    assert asked(scores(m=UP), better="higher").needed is None
    within = asked(scores(m=[-1.0, 1.0] * 5), margin=0.5)
    assert within.negligible
    assert within.needed == pytest.approx((1.96 + 1.2816) ** 2 * (np.std(APART, ddof=1) / 0.5) ** 2, abs=1)


def test_a_figure_of_a_whole_arm_decides_nothing() -> None:
    table = scores(m=[1.0]).assign(prompt_index=-1, seed=-1)
    found = asked(table, better="higher")
    assert (found.verdict, found.reason) == (OPEN, "one figure an arm has no interval")


def test_seeds_of_a_prompt_are_averaged_and_intervals_are_reproducible() -> None:
    one = scores(m=DOWN)
    two = pd.concat([one, one.assign(seed=1)])
    assert asked(two) == asked(one)
    found = asked(one)
    assert found.low < found.difference < found.high < 0
    assert found.difference == pytest.approx(-1.0)


def test_what_was_not_scored_has_its_reason() -> None:
    table = scores(m=DOWN)
    table.loc[:, ["value", "status", "reason"]] = [np.nan, "skipped", "no weights"]
    found = asked(table)
    assert (found.verdict, found.corrected, found.reason) == (ABSENT, ABSENT, "no weights")
    assert asked(scores(m=DOWN), "other").reason == "not scored for both arms on the same clips"
    assert asked(pd.DataFrame()).reason == "no scores in this run"
