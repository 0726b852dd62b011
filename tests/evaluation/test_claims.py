"""A claim's verdict follows from the paired differences, in all four outcomes."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from vibe_pipeline.evaluation.bootstrap import Bootstrap
from vibe_pipeline.evaluation.claims import (
    ABSENT,
    FAILS,
    HOLDS,
    NOT_RUN,
    OPEN,
    compare_on_metric,
    evaluate_claim,
)
from vibe_pipeline.experiment.claims import Claim, load_claims

CLAIM = Claim(name="c", statement="a beats b", arm="a", other="b", metrics={"noise": "lower", "detail": "higher"})


def scores(**differences: list[float]) -> pd.DataFrame:
    """Scores of arms a and b whose paired differences a − b are those given, over very unlike prompts."""
    rows = []
    for metric, values in differences.items():
        for prompt, value in enumerate(values):
            rows += [("a", prompt, 0, metric, 10.0 * prompt + value), ("b", prompt, 0, metric, 10.0 * prompt)]
    table = pd.DataFrame(rows, columns=["arm", "prompt_index", "seed", "metric", "value"])
    return table.assign(direction="lower", family="detail", status="scored", reason="")


UP, DOWN = list(np.linspace(0.5, 1.5, 10)), list(np.linspace(-1.5, -0.5, 10))
MIXED = [-1.0, 1.0] * 5


@pytest.mark.parametrize(
    ("noise", "detail", "verdict"),
    [(DOWN, UP, HOLDS), (UP, UP, FAILS), (DOWN, MIXED, OPEN), (MIXED, MIXED, OPEN), (MIXED, DOWN, FAILS)],
)
def test_verdict_follows_from_all_metrics(noise: list[float], detail: list[float], verdict: str) -> None:
    assert evaluate_claim(CLAIM, scores(noise=noise, detail=detail)).verdict == verdict


def test_an_absent_arm_is_not_run_and_no_scores_are_not_a_verdict() -> None:
    judgement = evaluate_claim(CLAIM.model_copy(update={"other": "z"}), scores(noise=DOWN, detail=UP))
    assert (judgement.verdict, judgement.reason) == (NOT_RUN, "not in this run: z")
    assert evaluate_claim(CLAIM, pd.DataFrame()).verdict == NOT_RUN
    assert evaluate_claim(CLAIM, scores(other=UP)).verdict == ABSENT


def test_a_claim_does_not_hold_on_half_its_metrics() -> None:
    table = scores(noise=DOWN, detail=UP)
    skipped = table["metric"] == "detail"
    table.loc[skipped, ["value", "status", "reason"]] = [np.nan, "skipped", "no weights"]
    judgement = evaluate_claim(CLAIM, table)
    assert judgement.verdict == OPEN
    assert "1 not measured" in judgement.reason
    assert judgement.evidence[1].reason == "no weights"


def test_a_certain_difference_that_is_too_small_decides_nothing() -> None:
    table = scores(noise=UP, detail=UP)
    assert evaluate_claim(CLAIM, table).verdict == FAILS
    judgement = evaluate_claim(CLAIM.model_copy(update={"smallest": {"noise": 2.0}}), table)
    assert judgement.verdict == OPEN
    assert "too small to matter" in judgement.evidence[0].reason


def test_few_prompts_cannot_tell() -> None:
    evidence = compare_on_metric(scores(noise=[-1.0] * 5), "a", "b", "noise", "lower")
    assert evidence.verdict == OPEN
    assert "only 5 prompts" in evidence.reason
    assert Bootstrap().fewest_pairs == 6
    assert Bootstrap(confidence=0.5).fewest_pairs == 2


def test_by_at_least_so_much() -> None:
    """The whole interval has to lie beyond it; one between it and 0 speaks against the claim."""
    table = scores(noise=DOWN, detail=UP)  # means of -1 and 1, intervals about .4 wide
    verdicts = {
        limit: evaluate_claim(CLAIM.model_copy(update={"at_least": {"noise": limit, "detail": limit}}), table)
        for limit in (0.5, 1.05, 2.0)
    }
    assert {limit: j.verdict for limit, j in verdicts.items()} == {0.5: HOLDS, 1.05: OPEN, 2.0: FAILS}
    assert verdicts[1.05].evidence[0].reason == "the interval of the difference contains -1.05"
    assert verdicts[1.05].evidence[1].reason == "the interval of the difference contains 1.05"
    assert verdicts[2.0].evidence[1].reason == "the gain is below 2"
    assert "-0" not in compare_on_metric(scores(noise=MIXED), "a", "b", "noise", "lower").reason


def test_worse_by_no_more_than_a_margin() -> None:
    """The whole interval has to lie on this side of it, however certain it is that something is lost."""
    table = scores(noise=UP, detail=DOWN)  # worse by 1 on both, intervals about .4 wide
    verdicts = {
        margin: evaluate_claim(CLAIM.model_copy(update={"margin": {"noise": margin, "detail": margin}}), table)
        for margin in (0.5, 1.05, 2.0)
    }
    assert {margin: j.verdict for margin, j in verdicts.items()} == {0.5: FAILS, 1.05: OPEN, 2.0: HOLDS}
    assert verdicts[1.05].evidence[0].reason == "the interval of the difference contains 1.05"
    with pytest.raises(ValueError, match="at_least and margin both name 'noise'"):
        Claim(**CLAIM.model_dump() | {"margin": {"noise": 1.0}, "at_least": {"noise": 1.0}})


@pytest.mark.parametrize("field", ["at_least", "smallest", "margin"])
def test_limits_are_of_the_claims_own_metrics(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} names 'nois'"):
        Claim(name="c", statement="s", arm="a", other="b", metrics={"noise": "lower"}, **{field: {"nois": 1.0}})


def test_what_cannot_be_told_says_how_many_prompts_would_tell_it() -> None:
    slight = [-1.0, 1.2] * 5
    evidence = compare_on_metric(scores(detail=slight), "a", "b", "detail", "higher")
    assert evidence.verdict == OPEN and evidence.difference == pytest.approx(0.1)
    assert evidence.needed == pytest.approx(7.849 * (np.std(slight, ddof=1) / 0.1) ** 2, rel=0.01)
    against = compare_on_metric(scores(detail=slight), "a", "b", "detail", "higher", at_least=0.3)
    assert against.needed == pytest.approx(7.849 * (np.std(slight, ddof=1) / 0.2) ** 2, rel=0.01)
    assert compare_on_metric(scores(detail=UP), "a", "b", "detail", "higher").needed is None


def test_a_figure_of_a_whole_arm_decides_nothing() -> None:
    table = scores(total=[1.0]).assign(prompt_index=-1, seed=-1)
    evidence = compare_on_metric(table, "a", "b", "total", "higher")
    assert (evidence.verdict, evidence.reason) == (OPEN, "one figure an arm has no interval")


def test_seeds_of_a_prompt_are_averaged_and_intervals_are_reproducible() -> None:
    one = scores(noise=DOWN)
    two = pd.concat([one, one.assign(seed=1)])
    assert compare_on_metric(two, "a", "b", "noise", "lower") == compare_on_metric(one, "a", "b", "noise", "lower")
    evidence = compare_on_metric(one, "a", "b", "noise", "lower")
    assert evidence.low < evidence.difference < evidence.high < 0
    assert evidence.difference == pytest.approx(-1.0)


def test_declared_claims_load() -> None:
    claims = load_claims(Path(__file__).parents[2] / "conf/base/claims.yml")
    assert {c.name for c in claims} >= {"relay_beats_naive", "hfato_adds_detail", "hfato_pixel_adds_detail"}


@pytest.mark.parametrize(
    "text", ["claims: 3", "[]", "claims:\n  - {name: x, statement: y, arm: a, other: b, metrics: {m: up}}"]
)
def test_broken_claims_name_the_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "claims.yml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"claims\.yml"):
        load_claims(path)
