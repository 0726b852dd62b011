"""Summaries: paired, clustered by prompt, deterministic, and honest about what is missing."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from vibe_pipeline.evaluation.bootstrap import Bootstrap
from vibe_pipeline.evaluation.differences import paired_difference
from vibe_pipeline.evaluation.estimates import crossed
from vibe_pipeline.evaluation.statistics import NEEDED, SUMMARY_COLUMNS, summarise


def table(rows, metric="flicker", direction="lower", family="detail"):
    """Rows of (arm, prompt, seed, value[, status, reason])."""
    filled = [(*row, "scored", "")[:6] if len(row) == 4 else row for row in rows]
    return pd.DataFrame(
        [(a, p, s, metric, v, direction, family, status, reason) for a, p, s, v, status, reason in filled],
        columns=list(NEEDED),
    )


def row(summary, arm, metric="flicker"):
    return summary[(summary["arm"] == arm) & (summary["metric"] == metric)].iloc[0]


def grid(seed=0, prompts=12, seeds=2, gain=0.5, noise=0.05):
    """Prompts of very different difficulty; arm "b" is "a" plus a gain that hardly varies."""
    rng = np.random.default_rng(seed)
    level = rng.normal(0, 3, prompts)
    rows = []
    for p in range(prompts):
        for s in range(seeds):
            rows += [("a", p, s, level[p]), ("b", p, s, level[p] + gain + noise * rng.standard_normal())]
    return table(rows)


def test_columns_and_known_answers():
    scores = table([("a", 0, 0, 1.0), ("a", 0, 1, 3.0), ("a", 1, 0, 6.0), ("b", 0, 0, 2.0), ("b", 1, 0, 9.0)])
    summary = summarise(scores, "a", 0.9, 500, 1)
    assert list(summary.columns) == list(SUMMARY_COLUMNS) and list(summary["arm"]) == ["a", "b"]
    a, b = row(summary, "a"), row(summary, "b")
    assert (a["mean"], a["n"]) == (4.0, 3)  # prompts count alike: (2 + 6) / 2, not 10 / 3
    assert (b["mean"], b["n"], b["diff"], b["n_pairs"]) == (5.5, 2, 2.0, 2)
    assert (a["diff"], a["diff_low"], a["diff_high"], a["n_pairs"]) == (0.0, 0.0, 0.0, 3)
    # Two prompts: the resampled means are 2, 4 or 6 with chances 1/4, 1/2, 1/4.
    assert (a["ci_low"], a["ci_high"]) == (2.0, 6.0)
    assert set(summary["status"]) == {"scored"} and set(summary["reason"]) == {""}


def test_pairing_removes_the_prompts_difficulty():
    b = row(summarise(grid(), "a", 0.95, 1000, 0), "b")
    assert b["diff"] == pytest.approx(0.5, abs=0.05)
    assert b["diff_low"] < b["diff"] < b["diff_high"] and b["diff_high"] - b["diff_low"] < 0.1
    assert b["ci_high"] - b["ci_low"] > 1


def test_deterministic_and_blind_to_order():
    scores = grid()
    first = summarise(scores, "a", 0.95, 200, 7)
    pd.testing.assert_frame_equal(first, summarise(scores, "a", 0.95, 200, 7))
    shuffled = summarise(scores.sample(frac=1, random_state=0), "a", 0.95, 200, 7)
    keys = ["arm", "metric"]
    pd.testing.assert_frame_equal(
        first.sort_values(keys, ignore_index=True), shuffled.sort_values(keys, ignore_index=True)
    )
    other = summarise(scores, "a", 0.95, 200, 8)
    assert row(other, "b")["ci_low"] != row(first, "b")["ci_low"]


def test_interval_agrees_with_the_normal_one():
    rng = np.random.default_rng(0)
    values = rng.normal(1.0, 2.0, 400)
    a = row(summarise(table([("a", p, 0, v) for p, v in enumerate(values)]), "a", 0.95, 4000, 0), "a")
    half = 1.96 * values.std() / math.sqrt(400)
    assert a["ci_low"] == pytest.approx(values.mean() - half, abs=0.02)
    assert a["ci_high"] == pytest.approx(values.mean() + half, abs=0.02)


def test_only_common_clips_are_paired():
    scores = table([("a", 0, 0, 1.0), ("a", 1, 0, 5.0), ("b", 1, 0, 6.0), ("b", 2, 0, 100.0), ("c", 0, 9, 3.0)])
    summary = summarise(scores, "a", 0.95, 100, 0)
    assert (row(summary, "b")["diff"], row(summary, "b")["n_pairs"]) == (1.0, 1)
    c = row(summary, "c")
    assert math.isnan(c["diff"]) and c["n_pairs"] == 0 and "no clip in common with 'a'" in c["reason"]


def test_one_clip_has_a_mean_without_an_interval():
    summary = summarise(table([("a", 0, 0, 2.0), ("b", 0, 0, 3.0)]), "a", 0.95, 100, 0)
    b = row(summary, "b")
    assert (b["mean"], b["n"], b["diff"], b["n_pairs"]) == (3.0, 1, 1.0, 1)
    assert all(math.isnan(b[name]) for name in ("ci_low", "ci_high", "diff_low", "diff_high"))


def test_seeds_of_one_prompt_give_no_interval():
    summary = summarise(table([("a", 0, s, float(s)) for s in range(5)]), "a", 0.95, 100, 0)
    assert row(summary, "a")["n"] == 5 and math.isnan(row(summary, "a")["ci_low"])


@pytest.mark.parametrize(
    ("rows", "status", "words"),
    [
        ([("b", -1, -1, math.nan, "skipped", "skipped, because no weights")], "skipped", "no weights"),
        ([("b", 0, 0, math.nan, "failed", "x.mp4 cannot be read")], "failed", "x.mp4"),
        ([("b", 0, 0, math.inf, "scored", "")], "failed", "scored with the value inf"),
        ([("b", 0, 0, math.nan, "scored", "")], "failed", "value nan"),
        ([], "missing", "no row for this arm and metric"),
    ],
)
def test_missing_stays_missing_with_its_reason(rows, status, words):
    scores = pd.concat([table([("a", 0, 0, 1.0), ("a", 1, 0, 2.0), *rows]), table([("b", 0, 0, 1.0)], metric="psnr")])
    summary = summarise(scores, "a", 0.95, 50, 0)
    assert len(summary) == 4
    b = row(summary, "b")
    numbers = ["mean", "ci_low", "ci_high", "diff", "diff_low", "diff_high"]
    assert b[numbers].isna().all() and (b["n"], b["n_pairs"]) == (0, 0)
    assert b["status"] == status and words in b["reason"]
    assert (b["direction"], b["family"]) == ("lower", "detail")


def test_reference_without_a_score():
    scores = table([("a", -1, -1, math.nan, "skipped", "why"), ("b", 0, 0, 1.0), ("b", 1, 0, 3.0)])
    summary = summarise(scores, "a", 0.95, 50, 0)
    assert row(summary, "b")["mean"] == 2.0 and math.isnan(row(summary, "b")["diff"])
    assert math.isnan(row(summary, "a")["diff"])


def test_partly_scored_says_what_is_left_out():
    failed = [("a", p, 0, math.nan, "failed", f"{p}.mp4 is broken") for p in range(2, 7)]
    a = row(summarise(table([("a", 0, 0, 1.0), ("a", 1, 0, 3.0), *failed]), "a", 0.95, 50, 0), "a")
    assert (a["mean"], a["n"], a["status"]) == (2.0, 2, "scored")
    assert a["reason"] == "5 of 7 left out: 2.mp4 is broken; 3.mp4 is broken; 4.mp4 is broken; and 2 more reasons"


@pytest.mark.parametrize(
    ("change", "settings", "words"),
    [
        (lambda t: t, {"reference_arm": "z"}, "reference arm 'z' has no scores; the arms are: 'a', 'b'"),
        (lambda t: t, {"confidence": 1.0}, "confidence = 1.0"),
        (lambda t: t, {"samples": 0}, "samples = 0"),
        (lambda t: t.drop(columns=["family", "seed"]), {}, "lacks the columns seed, family; it has arm, "),
        (lambda t: pd.concat([t, t.head(1)]), {}, "two values of 'flicker' for arm 'a', prompt 0, seed 0"),
        (lambda t: t.assign(direction=["lower", "higher"] * (len(t) // 2)), {}, "more than one direction"),
    ],
)
def test_wrong_input_is_refused(change, settings, words):
    with pytest.raises(ValueError, match=words):
        summarise(change(grid()), **({"reference_arm": "a"} | settings))


def replicated(values, arm="b", seeds=None):
    """Scores [prompts, training seeds] of one arm, with the training seeds as a column; NaN is left out."""
    seeds = [str(s) for s in range(values.shape[1])] if seeds is None else seeds
    rows = [(arm, p, 0, v) for p in range(values.shape[0]) for v in values[p]]
    scores = table(rows).assign(training_seed=seeds * values.shape[0])
    return scores[scores["value"].notna()]


def slow_interval(values, less, bootstrap):
    """The crossed bootstrap in loops: prompts and training seeds drawn apart, effects of seeds stretched."""

    def stretch(x):
        seeds = x.shape[1]
        effects = [np.mean([x[p, s] - x[p].mean() for p in range(len(x))]) for s in range(seeds)]
        return x + (math.sqrt(seeds / (seeds - 1)) - 1) * np.array(effects) if seeds > 1 else x

    def draws(seed, units):
        return np.random.default_rng(seed).integers(0, units, (bootstrap.samples, units))

    sides = [
        (stretch(x), draws((bootstrap.seed, i), x.shape[1]), sign) for i, sign, x in ((1, 1, values), (2, -1, less))
    ]
    means = []
    for b, prompts in enumerate(draws(bootstrap.seed, len(values))):
        total = 0.0
        for x, seeds, sign in sides:
            total += sign * sum(x[p, s] for p in prompts for s in seeds[b]) / (len(prompts) * x.shape[1])
        means.append(total)
    tail = (1 - bootstrap.confidence) / 2
    return tuple(np.quantile(means, [tail, 1 - tail]))


def test_replicates_agree_with_a_slow_reference():
    rng = np.random.default_rng(3)
    a, b = rng.normal(0, 1, (7, 3)), rng.normal(0.5, 1, (7, 3)) + rng.normal(0, 1, 3)
    bootstrap = Bootstrap(60, 0.9, 5)
    summary = summarise(pd.concat([replicated(a, "a"), replicated(b, "b")]), "a", 0.9, 60, 5)
    found, nothing = row(summary, "b"), np.zeros((7, 1))
    assert (found["training_seeds"], found["n"], found["n_pairs"]) == (3, 21, 21)
    assert found["mean"] == pytest.approx(b.mean()) and found["diff"] == pytest.approx((b - a).mean())
    assert (found["ci_low"], found["ci_high"]) == pytest.approx(slow_interval(b, nothing, bootstrap))
    assert (found["diff_low"], found["diff_high"]) == pytest.approx(slow_interval(b - a, nothing, bootstrap))
    by_prompt = (b - a).mean(axis=1)
    assert found["effect_size"] == pytest.approx(by_prompt.mean() / by_prompt.std(ddof=1))
    other = pd.concat([replicated(a[:, :2], "a", ["8", "9"]), replicated(b, "b")])
    unpaired = paired_difference(other, "b", "a", "flicker", bootstrap)
    assert unpaired.mean == pytest.approx(b.mean() - a[:, :2].mean())
    assert (unpaired.low, unpaired.high) == pytest.approx(slow_interval(b, a[:, :2], bootstrap))


def test_one_training_meets_each_of_several():
    rng = np.random.default_rng(4)
    a, b = rng.normal(0, 1, (9, 1)), rng.normal(0, 1, (9, 3))
    both = pd.concat([replicated(a, "a", [""]), replicated(b, "b")])
    bootstrap = Bootstrap(50, 0.9, 0)
    there, back = (paired_difference(both, *arms, "flicker", bootstrap) for arms in (("b", "a"), ("a", "b")))
    assert there.mean == pytest.approx((b - a).mean()) and there.clips == 27 and there.training_seeds == 3
    assert (there.low, there.high) == pytest.approx(slow_interval(b - a, np.zeros((9, 1)), bootstrap))
    assert (back.mean, back.low, back.high) == pytest.approx((-there.mean, -there.high, -there.low), abs=1e-2)


def test_one_training_seed_is_as_none():
    plain = grid()
    named = summarise(plain.assign(training_seed="7"), "a", 0.95, 200, 7)
    pd.testing.assert_frame_equal(named, summarise(plain, "a", 0.95, 200, 7), check_exact=True)
    assert (named["training_seeds"] == 1).all() and math.isnan(row(named, "a")["effect_size"])


def test_a_missing_training_is_left_out_of_its_prompt():
    values = np.array([[1.0, 3.0], [5.0, math.nan], [2.0, 4.0]])
    found = row(summarise(pd.concat([replicated(values, "b"), replicated(values, "a")]), "a", 0.9, 200, 0), "b")
    assert (found["mean"], found["n"]) == (pytest.approx((2 + 5 + 3) / 3), 5)
    assert found["ci_low"] < found["mean"] < found["ci_high"]


def coverage(seeds, seed_spread, ignore=False, worlds=150, prompts=24):
    """How often the interval of a mean of 0 holds it, over simulated worlds."""
    held = 0
    for world in range(worlds):
        rng = np.random.default_rng(world)
        effects = rng.normal(0, 1, (prompts, 1)) + rng.normal(0, seed_spread, (1, seeds))
        values = effects + rng.normal(0, 0.5, (prompts, seeds))
        matrix = values.mean(axis=1, keepdims=True) if ignore else values
        low, high = Bootstrap(400, 0.95, world).interval(matrix)
        held += low <= 0 <= high
    return held / worlds


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    assert 0.88 <= coverage(4, 0.0) <= 1
    assert coverage(12, 0.5) >= 0.87
    assert coverage(3, 1.0) >= 0.7, "few seeds: too narrow, and said so"
    assert coverage(3, 1.0, ignore=True) < 0.6, "seeds ignored: far too narrow"


def test_each_arm_may_have_its_own_reference():
    scores = pd.concat([grid(), grid(1).assign(arm=lambda t: t["arm"].str.upper())])
    summary = summarise(scores, {"a": "a", "b": "a", "A": "A", "B": "A"}, 0.95, 100, 0)
    assert row(summary, "A")["diff"] == 0.0 and row(summary, "B")["diff"] == pytest.approx(0.5, abs=0.05)
    with pytest.raises(ValueError, match="reference arm None"):
        summarise(scores, {"a": "a"})


@pytest.mark.parametrize("status", ["failed", "skipped"])
def test_a_number_beside_a_status_that_is_not_scored_does_not_count(status: str) -> None:
    rows = [("a", 0, 0, 1.0, "scored", ""), ("a", 1, 0, 3.0, "scored", ""), ("a", 2, 0, 1e6, status, "half a file")]
    found = row(summarise(table(rows), "a", 0.9, 100, 1), "a")
    assert (found["mean"], found["n"], found["reason"]) == (2.0, 2, "1 of 3 left out: half a file")


def test_t_intervals_stand_beside_the_bootstraps():
    """Over training seeds alone and over prompts and seeds; with one training seed the paired t of prompts."""
    rng = np.random.default_rng(3)
    a, b = (rng.normal(0, 1, (7, 3)) + rng.normal(0, 1, 3) for _ in range(2))
    found = row(summarise(pd.concat([replicated(a, "a"), replicated(b, "b")]), "a", 0.9, 60, 5), "b")
    difference = b - a
    seeds = stats.ttest_1samp(difference.mean(0), 0).confidence_interval(0.9)
    assert (found["diff_seeds_low"], found["diff_seeds_high"]) == pytest.approx(tuple(seeds))
    assert (found["diff_crossed_low"], found["diff_crossed_high"]) == pytest.approx(crossed(difference).interval(0.9))
    one = row(summarise(pd.concat([replicated(a[:, :1], "a"), replicated(b[:, :1], "b")]), "a", 0.9, 60, 5), "b")
    prompts = stats.ttest_1samp(difference[:, 0], 0).confidence_interval(0.9)
    assert (one["diff_crossed_low"], one["diff_crossed_high"]) == pytest.approx(tuple(prompts))
    assert math.isnan(one["diff_seeds_low"]) and math.isnan(one["diff_seeds_high"])
