"""Averages over dimensions and VBench's totals: paired, and missing wherever a part is."""

import math

import numpy as np
import pandas as pd
import pytest

from vibe_pipeline.evaluation.composites import composite_scores, missing_parts
from vibe_pipeline.evaluation.metrics.averages import AVERAGES
from vibe_pipeline.evaluation.metrics.registry import METRICS
from vibe_pipeline.evaluation.statistics import summarise
from vibe_pipeline.experiment.evaluation import EvaluationParams
from vibe_pipeline.io.score_table import Place, score_row, score_table
from vibe_pipeline.vbench.totals import DIMENSIONS, vbench_totals

SIX = EvaluationParams.model_fields["overall_dimensions"].default
PAPER = (
    "subject_consistency", "background_consistency", "motion_smoothness", "aesthetic_quality", "imaging_quality",
    "overall_consistency",
)  # fmt: skip
# What each entry averages, written out: the four differ in one or two dimensions.
PARTS = {
    "overall6": set(PAPER),
    "overall6_tf": set(PAPER) - {"motion_smoothness"} | {"temporal_flickering"},
    "average5_ultragen": set(PAPER) - {"overall_consistency"},
    "average5_cinescale": set(PAPER) - {"overall_consistency", "motion_smoothness"} | {"temporal_flickering"},
}


def scores(values: dict[tuple[str, int, str], float]) -> pd.DataFrame:
    """Scored rows of (arm, prompt, dimension)."""
    return score_table(
        score_row(Place(arm, prompt, 0), METRICS[name], value) for (arm, prompt, name), value in values.items()
    )


def drawn(arms=("full", "other"), prompts=12, names=DIMENSIONS, gain=0.0) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    return scores(
        {
            (arm, p, name): rng.uniform(0.2, 0.8) + gain * (arm == "full")
            for arm in arms
            for p in range(prompts)
            for name in names
        }
    )


def of(table: pd.DataFrame, metric: str, arm: str = "full") -> pd.DataFrame:
    return table[(table["metric"] == metric) & (table["arm"] == arm)]


def test_the_default_is_what_fits_the_papers_overall():
    assert SIX == PAPER and {a.name for a in AVERAGES} == set(PARTS) <= set(METRICS)


@pytest.mark.parametrize("name", PARTS)
def test_an_average_is_the_plain_mean_of_a_clips_raw_scores(name):
    table = drawn()
    made = of(composite_scores(table, SIX), name)
    assert made["status"].eq("scored").all() and sorted(made["prompt_index"]) == list(range(12))
    for row in made.itertuples():
        own = table[(table["arm"] == "full") & (table["prompt_index"] == row.prompt_index)]
        assert row.value == pytest.approx(own[own["metric"].isin(PARTS[name])]["value"].mean())


def test_overall_is_paired_and_has_an_interval():
    made = composite_scores(drawn(gain=0.1), SIX)
    summary = summarise(made, "other").set_index(["arm", "metric"])
    full = summary.loc[("full", "overall6")]
    assert full["n"] == full["n_pairs"] == 12 and full["ci_low"] < full["mean"] < full["ci_high"]
    parts = drawn(gain=0.1).pivot_table(index="prompt_index", columns=["arm", "metric"], values="value")
    expected = parts["full"][list(PAPER)].mean(axis=1) - parts["other"][list(PAPER)].mean(axis=1)
    assert full["diff"] == pytest.approx(expected.mean()) and full["diff_low"] < expected.mean() < full["diff_high"]


def test_the_parameter_names_the_dimensions():
    table = drawn()
    made = of(composite_scores(table, ["subject consistency", "motion_smoothness"]), "overall6").set_index(
        "prompt_index"
    )
    two = table[(table["arm"] == "full") & table["metric"].isin(["subject_consistency", "motion_smoothness"])]
    pd.testing.assert_series_equal(made["value"], two.groupby("prompt_index")["value"].mean(), check_names=False)
    with pytest.raises(ValueError, match="unknown VBench dimension 'sharpness'"):
        composite_scores(table, ["sharpness", "scene"])
    without_motion = composite_scores(table, ["scene", "color"])
    row = of(without_motion, "overall6_tf").iloc[0]
    assert (row["status"], row["prompt_index"]) == ("skipped", -1) and math.isnan(row["value"])
    assert (
        row["reason"]
        == "evaluation.overall_dimensions has no motion_smoothness for which temporal_flickering could stand"
    )


def test_a_dimension_missing_on_one_clip_leaves_that_clip_out():
    table = drawn()
    gap = (table["arm"] == "full") & (table["prompt_index"] == 4) & (table["metric"] == "imaging_quality")
    table.loc[gap, ["value", "status", "reason"]] = [math.nan, "failed", "broken"]
    made = of(composite_scores(table, SIX), "overall6").set_index("prompt_index")
    assert made.loc[4, "status"] == "skipped" and made.loc[4, "reason"] == "no score on this clip of imaging_quality"
    assert math.isnan(made.loc[4, "value"]) and made["status"].eq("scored").sum() == 11
    total = of(composite_scores(table, SIX), "vbench_quality").iloc[0]
    assert total["status"] == "scored" and total["reason"] == "imaging_quality: 1 of 12 clips left out"


def test_a_dimension_missing_altogether_is_named_and_never_0():
    table = drawn(names=[name for name in DIMENSIONS if name != "scene"])
    skipped = score_table([score_row(Place(arm), METRICS["imaging_quality"], status="skipped", reason="no weights")
                           for arm in ("full", "other")])  # fmt: skip
    table = pd.concat([table[table["metric"] != "imaging_quality"], skipped], ignore_index=True)
    made = composite_scores(table, SIX)
    reasons = {
        name: of(made, name).iloc[0]["reason"] for name in (*PARTS, "vbench_quality", "vbench_semantic", "vbench_total")
    }
    imaging = "no score of imaging_quality, for the reason given there"
    scene = "evaluation.vbench_dimensions does not ask for scene"
    assert reasons == dict.fromkeys([*PARTS, "vbench_quality"], imaging) | {
        "vbench_semantic": scene, "vbench_total": f"{imaging}; {scene}",
    }  # fmt: skip
    assert made["value"].isna().all() and made["status"].eq("skipped").all() and (made["prompt_index"] == -1).all()
    summary = summarise(made, "full").set_index(["arm", "metric"])
    assert summary.loc[("other", "vbench_total"), "reason"] == f"{imaging}; {scene}"
    assert math.isnan(summary.loc[("other", "vbench_total"), "mean"])


def test_totals_are_of_the_means_over_each_dimensions_own_clips():
    """Dimensions of VBench's own prompts are scored on unlike clips; a total is of their means, not of any clip."""
    table = drawn()
    table = table[~((table["metric"] == "scene") & (table["prompt_index"] > 3))]
    made = composite_scores(table, SIX)
    means = table[table["arm"] == "full"].groupby("metric")["value"].mean().to_dict()
    expected = vbench_totals(means)
    for name in ("vbench_quality", "vbench_semantic", "vbench_total"):
        row = of(made, name).iloc[0]
        assert row["value"] == pytest.approx(expected.of(name)) and row["family"] == "totals"
    summary = summarise(made, "other").set_index(["arm", "metric"]).loc[("full", "vbench_total")]
    assert summary["mean"] == pytest.approx(expected.total) and (summary["n"], summary["n_pairs"]) == (0, 0)
    assert summary["status"] == "scored" and summary["reason"] == "" and math.isnan(summary["ci_low"])


def test_a_score_out_of_range_is_a_reason_and_stops_nothing():
    table = drawn()
    table.loc[table["metric"] == "scene", "value"] = 52.7
    row = of(composite_scores(table, SIX), "vbench_semantic").iloc[0]
    assert row["status"] == "failed" and "scene = 52.7" in row["reason"]


def test_what_a_claim_needs_and_is_not_asked_for():
    asked = [name for name in PAPER if name != "imaging_quality"]
    assert missing_parts("overall6", asked, SIX) == ["imaging_quality"]
    assert missing_parts("overall6_tf", asked, SIX) == ["temporal_flickering", "imaging_quality"]
    assert missing_parts("imaging_quality", asked, SIX) == ["imaging_quality"]
    assert missing_parts("flicker", asked, SIX) == []
    assert set(missing_parts("vbench_total", asked, SIX)) == set(DIMENSIONS) - set(asked)
