"""Differences of figures that arms have as a whole: resampled over the same prompts of both, against known truths."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from vibe_pipeline.evaluation.bootstrap import Bootstrap
from vibe_pipeline.evaluation.differences import paired_difference
from vibe_pipeline.evaluation.metrics.distributions import DISTRIBUTIONS, hd_fvd
from vibe_pipeline.evaluation.metrics.frechet import Moments, frechet_distance
from vibe_pipeline.evaluation.readings import FAILS, HOLDS, OPEN, Question, compare_on_metric
from vibe_pipeline.evaluation.statistics import summarise
from vibe_pipeline.evaluation.whole_arm import resamples_as_text
from vibe_pipeline.io.score_table import Place, score_row, score_table

FVD, SIZE, PROMPTS, PATCHES = DISTRIBUTIONS[0], 3, 40, 6
OF_PROMPT, OF_PATCH = 2.0, 1.0
REAL = [np.random.default_rng(0).standard_normal((20_000, SIZE))]
WIDE = Bootstrap(confidence=0.9)


def clips(seed: int, arm: int, shift: float, scatter: float = 1.0, prompts: int = PROMPTS) -> list[np.ndarray]:
    """Features of one clip a prompt: a part that every arm's clip of the prompt shares, and a part of its own."""
    shared = OF_PROMPT * np.random.default_rng(seed).standard_normal((prompts, 1, SIZE))
    own = OF_PATCH * np.random.default_rng((seed, arm)).standard_normal((prompts, PATCHES, SIZE))
    return list(scatter * (shared + own) + np.array([shift, 0, 0]))


def truth(shift: float, scatter: float = 1.0) -> float:
    """The distance of endless clips to the real ones, in closed form."""
    there = Moments(np.array([shift, 0, 0]), scatter**2 * (OF_PROMPT**2 + OF_PATCH**2) * np.eye(SIZE))
    return frechet_distance(there, Moments(np.zeros(SIZE), np.eye(SIZE)))


def row(arm: str, features: Sequence[np.ndarray], prompts: Sequence[int], **more: object) -> dict[str, object]:
    """A row of the score table, as the networks' room writes it."""
    figure = hd_fvd(features, prompts, REAL, 0.95, 0)
    kept = {"low": figure.low, "high": figure.high, "resamples": resamples_as_text(prompts, 0, figure.resamples)}
    return score_row(Place(arm), FVD, figure.value, reason=figure.note) | kept | more


def two(seed: int, one: float = 1.0, other: float = 1.5, scatter: float = 1.0) -> pd.DataFrame:
    """Scores of two arms on the same prompts."""
    made = clips(seed, 1, one), clips(seed, 2, other, scatter)
    return score_table(row(arm, features, range(PROMPTS)) for arm, features in zip("ab", made, strict=True))


def difference(scores: pd.DataFrame, bootstrap: Bootstrap = WIDE):
    return paired_difference(scores, "a", "b", FVD.name, bootstrap)


def test_intervals_hold_the_truth_about_as_often_as_they_say_and_shared_prompts_make_them_narrow() -> None:
    held, widths = 0, []
    for seed in range(60):
        found = difference(two(seed))
        held += found.low <= truth(1.0) - truth(1.5) <= found.high
        apart = [hd_fvd(clips(seed, arm, shift), range(PROMPTS), REAL, 0.9, arm) for arm, shift in ((1, 1.0), (2, 1.5))]
        alone = np.hypot(*(figure.high - figure.low for figure in apart))
        widths.append((found.high - found.low) / alone)
    assert 48 <= held <= 60, held
    assert np.mean(widths) < 0.6, "what makes a prompt hard for both arms falls out"


def test_what_few_clips_add_to_a_difference_is_said_and_covered() -> None:
    """The arm that scatters more is too high by more: over many runs by about what the resamples say."""
    off, said = [], []
    for seed in range(40):
        scores = two(seed, scatter=2.0)
        found = difference(scores)
        value = scores.set_index("arm")["value"]
        assert found.mean == pytest.approx(value["a"] - value["b"])
        bias = float(found.note.split("about ")[1].split(" of this")[0])
        assert found.low <= found.mean - bias <= found.high and found.low < found.mean < found.high
        off.append(found.mean - truth(1.0) + truth(1.5, 2.0))
        said.append(bias)
    assert np.mean(said) == pytest.approx(np.mean(off), abs=2 * np.std(off) / 40**0.5) and np.mean(said) < 0
    assert "resampled at once over their 40 prompts" in found.note and "too high for so few clips" in found.note


def test_a_claim_on_a_distribution_is_decided_and_says_what_few_clips_do() -> None:
    near, far = two(3, 0.0, 3.0), two(3, 3.0, 0.0)
    holds, fails = (compare_on_metric(scores, "a", "b", Question(FVD.name, "lower")) for scores in (near, far))
    assert (holds.verdict, fails.verdict, holds.pairs) == (HOLDS, FAILS, PROMPTS)
    assert "too high for so few clips" in holds.reason
    open_ = compare_on_metric(two(4, 1.0, 1.02), "a", "b", Question(FVD.name, "lower"))
    assert open_.verdict == OPEN and "contains 0" in open_.reason and open_.needed > PROMPTS


def test_the_table_has_the_difference_with_its_interval_and_keeps_it_through_a_file(tmp_path: Path) -> None:
    two(5).to_parquet(tmp_path / "scores.parquet")
    table = summarise(pd.read_parquet(tmp_path / "scores.parquet"), "a", 0.9).set_index("arm")
    found = difference(two(5))
    assert table.loc["b", ["diff_low", "diff_high"]].tolist() == pytest.approx([-found.high, -found.low])
    assert table.loc["b", ["n", "n_pairs"]].tolist() == [0, 0], "it is of no clip"
    assert table.loc["a", "diff"] == 0 and "resampled at once" not in table.loc["a", "reason"]
    assert "from 40 clips" in table.loc["b", "reason"] and "resampled at once" in table.loc["b", "reason"]


@pytest.mark.parametrize(
    "other",
    [
        lambda: row("b", clips(6, 2, 1.5), range(1, PROMPTS + 1)),
        lambda: row("b", clips(6, 2, 1.5, prompts=20), range(20)),
        lambda: row("b", clips(6, 2, 1.5), range(PROMPTS), resamples=""),
    ],
)
def test_arms_of_other_prompts_have_no_interval(other) -> None:
    """Nor has one whose figure keeps no resamples, as a total."""
    scores = score_table([row("a", clips(6, 1, 1.0), range(PROMPTS)), other()])
    found = difference(scores)
    assert np.isfinite(found.mean) and not found.has_interval
    evidence = compare_on_metric(scores, "a", "b", Question(FVD.name, "lower"))
    assert (evidence.verdict, evidence.reason) == (OPEN, "one figure an arm has no interval")


def trained(arm: str, seeds: Sequence[str], shift: float, between: float) -> list[dict[str, object]]:
    """An arm with several trainings, whose figures differ by `between` in the shift."""
    made = (clips(7, 10 + i, shift + between * i) for i in range(len(seeds)))
    return [row(arm, features, range(PROMPTS), training_seed=seed) for features, seed in zip(made, seeds, strict=True)]


def scores_of(*rows: dict[str, object]) -> pd.DataFrame:
    return score_table(rows).assign(training_seed=[made["training_seed"] for made in rows])


def test_training_seeds_widen_it_as_they_differ() -> None:
    other = trained("b", [""], 1.5, 0.0)
    alike, unlike = (difference(scores_of(*trained("a", "012", 1.0, by), *other)) for by in (0.0, 1.0))
    assert alike.training_seeds == unlike.training_seeds == 3
    assert unlike.high - unlike.low > 2 * (alike.high - alike.low) and unlike.of_seeds > 10 * alike.of_seeds
    values = [made["value"] for made in trained("a", "012", 1.0, 1.0)]
    assert unlike.mean == pytest.approx(np.mean(values) - other[0]["value"])
    level = summarise(scores_of(*trained("a", "012", 1.0, 1.0), *other), "b").set_index("arm").loc["a"]
    assert level["ci_low"] < level["mean"] < level["ci_high"] and level["training_seeds"] == 3


def test_trainings_of_the_same_seeds_are_paired_and_of_others_are_not() -> None:
    """Both arms move alike with the seed: only pairing knows."""
    one = trained("a", "012", 1.0, 1.0)
    same, others = (difference(scores_of(*one, *trained("b", names, 1.2, 1.0))) for names in ("012", "345"))
    assert same.mean == pytest.approx(others.mean)
    assert others.high - others.low > 2 * (same.high - same.low)
