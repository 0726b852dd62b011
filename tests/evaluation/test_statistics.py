"""Summaries: paired, clustered by prompt, deterministic, and honest about what is missing."""

import math

import numpy as np
import pandas as pd
import pytest

from vibe_pipeline.evaluation.clips import SCORE_COLUMNS
from vibe_pipeline.evaluation.statistics import SUMMARY_COLUMNS, summarise


def table(rows, metric="flicker", direction="lower", family="detail"):
    """Rows of (arm, prompt, seed, value[, status, reason])."""
    filled = [(*row, "scored", "")[:6] if len(row) == 4 else row for row in rows]
    return pd.DataFrame(
        [(a, p, s, metric, v, direction, family, status, reason) for a, p, s, v, status, reason in filled],
        columns=list(SCORE_COLUMNS),
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
        (lambda t: t.drop(columns=["family", "seed"]), {}, "lacks the columns seed, family"),
        (lambda t: pd.concat([t, t.head(1)]), {}, "two values of 'flicker' for arm 'a', prompt 0, seed 0"),
        (lambda t: t.assign(direction=["lower", "higher"] * (len(t) // 2)), {}, "more than one direction"),
    ],
)
def test_wrong_input_is_refused(change, settings, words):
    with pytest.raises(ValueError, match=words):
        summarise(change(grid()), **({"reference_arm": "a"} | settings))


def test_it_is_fast():
    """11 arms, 20 metrics, 100 prompts: a page's worth, within seconds."""
    import time

    one = pd.concat([grid(s, 100, 1).assign(arm=lambda t, s=s: t["arm"] + str(s)) for s in range(5)])
    scores = pd.concat([one.assign(metric=f"m{i}") for i in range(20)])
    start = time.process_time()
    assert len(summarise(scores, "a0", 0.95, 2000, 0)) == 200
    assert time.process_time() - start < 20
