"""The paper's tables: published, ours, difference, verdict; what was not run keeps its row; three ways to copy it."""

import csv
import io
import itertools
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.one_claim import evaluate_claim
from vibe_pipeline.evaluation.bootstrap import DEFAULT_BOOTSTRAP
from vibe_pipeline.evaluation.statistics import summarise
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.claims import Asked, Claim
from vibe_pipeline.experiment.published import load_published
from vibe_pipeline.reporting.copies import Grid
from vibe_pipeline.reporting.page import context, render
from vibe_pipeline.reporting.paper import Ours, PaperTable, paper_tables
from vibe_pipeline.reporting.published import published_difference, published_gain
from vibe_pipeline.reporting.report_inputs import ReportInputs
from vibe_pipeline.reporting.setting import setting
from vibe_pipeline.reporting.verdicts import claim_shown, prompts_that_tell, signed

ROOT = Path(__file__).parents[2]
ARMS = {
    "full": ArmParams(label="Full, the paper's form"),
    "direct": ArmParams(label="Base | direct", method="direct"),
    "upsample": ArmParams(label="Enlarged", method="upsample"),
    "no_relay": ArmParams(label="Without Relay"),
    "full_pixel": ArmParams(label="Our pixel form"),
    "left_out": ArmParams(label="CineScale"),
}
# Mean of each arm on overall6; on the printed dimensions it is .1 lower.
MEANS = {"full": 0.74, "direct": 0.66, "upsample": 0.76, "no_relay": 0.738, "full_pixel": 0.77}
WHY = "not run, because extra_adapters.0.path: cinescale.safetensors does not exist"


def made_up() -> pd.DataFrame:
    rng, rows = np.random.default_rng(0), []
    level = rng.normal(0, 0.1, 24)
    for arm, prompt, metric in itertools.product(MEANS, range(24), ("overall6", "imaging_quality")):
        value = MEANS[arm] - 0.1 * (metric != "overall6") + level[prompt] + rng.normal(0, 0.01)
        family = "overall" if metric == "overall6" else "vbench"
        rows.append((arm, prompt, 0, metric, value, "higher", family, "scored", ""))
    columns = ["arm", "prompt_index", "seed", "metric", "value", "direction", "family", "status", "reason"]
    return pd.DataFrame(rows, columns=columns)


@pytest.fixture(scope="module")
def published() -> dict[str, Any]:
    content = load_published(ROOT / "conf/base/published.yml")
    cinescale = content["tables"][0]["rows"][2]
    assert cinescale["method"] == "CineScale"
    cinescale["arms"] = ["left_out"]
    return content


@pytest.fixture(scope="module")
def ours() -> Ours:
    scores = made_up()
    table = summarise(scores, "full")
    of_metrics = table.drop_duplicates("metric")[["metric", "direction", "family"]]
    left_out = of_metrics.assign(arm="left_out", status="not run", reason=WHY, n=0, n_pairs=0, training_seeds=0)
    return Ours(pd.concat([table, left_out], ignore_index=True), scores, ARMS, {}, "full")


@pytest.fixture(scope="module")
def main(published: Mapping[str, Any], ours: Ours) -> PaperTable:
    return paper_tables(published, ours)[0]


def row_of(table: PaperTable, arm: str) -> Any:
    return next(row for row in table.rows if row.arm == ARMS[arm].label)


def test_a_row_a_method_and_ours_behind_them(main: PaperTable) -> None:
    assert [(row.method, row.arm) for row in main.rows] == [
        ("Wan2.2 run directly", "Base | direct"),
        ("Real-ESRGAN on the native clip", "Enlarged"),
        ("CineScale", "CineScale"),
        ("T3-Video", ""),
        ("ViBe", "Full, the paper's form"),
        ("ours alone", "Our pixel form"),
    ]


def test_published_and_ours_stand_in_percent_with_an_interval(main: PaperTable, ours: Ours) -> None:
    row = row_of(main, "direct")
    shown = dict(zip([c.name for c in main.columns], row.cells, strict=True))
    mine = ours.table.set_index(["arm", "metric"]).loc[("direct", "overall6")]
    overall = shown["overall"]
    assert (overall.published, overall.ours) == ("65.5", f"{100 * mine['mean']:.1f}")
    assert overall.half_width == f"{50 * (mine['ci_high'] - mine['ci_low']):.1f}"
    assert (shown["aesthetic"].published, shown["aesthetic"].ours, shown["aesthetic"].lack) == ("59.1", "", "–")


def test_differences_are_the_papers_method_less_the_row_paired(main: PaperTable, ours: Ours) -> None:
    row = row_of(main, "direct")
    diff = ours.table.set_index(["arm", "metric"]).loc[("direct", "overall6"), "diff"]
    assert row.published_difference == "+8.9" and row.difference == signed(-100 * diff, 2)
    assert row.numbers[1] == pytest.approx(-100 * diff) and row.numbers[2] < row.numbers[1] < row.numbers[3]
    assert (row.verdict, row.kind) == ("the paper's method is better, as published", "holds")
    against = row_of(main, "upsample")
    assert (against.verdict, against.kind) == ("the paper's method is worse, unlike published", "fails")
    assert row_of(main, "full_pixel").verdict == "the paper's method is worse" and row_of(main, "full").is_reference


def test_where_less_is_better_the_verdict_turns_round(ours: Ours) -> None:
    """UltraGen's HD-FVD, say: a paper that prints the lower figure is the better one."""
    metric, columns = "hd_fvd_i3d", {"fvd": {"label": "HD-FVD", "metric": "hd_fvd_i3d"}}
    rows = [
        {"method": "ViBe", "arms": ["full"], "values": {"fvd": 300.0}},
        {"method": "direct", "arms": ["direct"], "values": {"fvd": 400.0}},
        {"method": "up", "arms": ["upsample"], "values": {"fvd": 200.0}},
    ]
    scores = ours.scores.assign(metric=metric, direction="lower")[ours.scores["metric"] == "overall6"]
    run = replace(ours, scores=scores, table=summarise(scores, "full"))
    (table,) = paper_tables({"columns": columns, "tables": [{"title": "t", "rows": rows}]}, run)
    assert row_of(table, "direct").verdict == "the paper's method is worse, unlike published"
    assert row_of(table, "upsample").verdict == "the paper's method is better, unlike published"
    rows[1]["values"]["fvd"] = 200.0
    (table,) = paper_tables({"columns": columns, "tables": [{"title": "t", "rows": rows}]}, run)
    assert row_of(table, "direct").verdict == "the paper's method is worse, as published"


def test_what_was_not_run_keeps_its_row_and_its_reason(main: PaperTable) -> None:
    row = row_of(main, "left_out")
    assert (row.verdict, row.reason, row.published_difference) == ("not run", WHY, "+0.8")
    assert {cell.lack for cell in row.cells if not cell.ours} <= {"–", "not run"} and row.cells[-1].lack == "not run"
    t3 = main.rows[3]
    assert (t3.verdict, t3.reason, t3.published_difference) == ("not run", "in this run no arm stands for it", "+1.6")


def test_what_cannot_be_told_says_how_many_prompts_would_tell_both_differences(
    published: Mapping[str, Any], ours: Ours
) -> None:
    scores = ours.scores.copy()
    rng = np.random.default_rng(1)
    mine = (scores["arm"] == "no_relay") & (scores["metric"] == "overall6")
    scores.loc[mine, "value"] += rng.normal(0, 0.1, mine.sum())
    ablation = paper_tables(published, replace(ours, scores=scores, table=summarise(scores, "full")))[1]
    row = row_of(ablation, "no_relay")
    assert row.verdict == "cannot be told from this data" and row.published_difference == "+8.4"
    assert "prompts would tell a difference as large as the one seen, " in row.reason
    values = scores[scores["metric"] == "overall6"].pivot(index="prompt_index", columns="arm", values="value")
    spread = (values["full"] - values["no_relay"]).std()
    count = int(row.reason.split("the one seen, ")[1].split(" prompts would tell a difference as large as the pub")[0])
    assert count == math.ceil(7.849 * (spread / 0.084) ** 2)


def test_a_claim_shows_the_published_gain_beside_ours(published: Mapping[str, Any], ours: Ours) -> None:
    assert published_gain(published, "full", "left_out", "overall6") == pytest.approx(0.8)
    assert set(published_difference(published, "full", "direct")) == {
        "Aesthetic quality", "Imaging quality", "Overall consistency", "Overall",
    }  # fmt: skip
    asked = Asked(metric="overall6", better="higher", margin=0.004)
    claim = Claim(name="c", statement="s", kind="k", arm="full", other="direct", primary=asked)
    shown = claim_shown(evaluate_claim(claim, ours.scores), ARMS, published, DEFAULT_BOOTSTRAP)
    assert shown["published"].endswith("Overall +8.9")
    beside = shown["evidence"][0]["beside"]
    assert "; ours +8." in beside and beside.endswith("published +8.9 points")
    more = claim.model_copy(update={"at_least": 0.08})
    judged = evaluate_claim(more, ours.scores)
    line = claim_shown(judged, ARMS, published, DEFAULT_BOOTSTRAP)["evidence"][0]
    assert line["label"] == "Overall, plain mean, primary, by at least 0.080" and "contains 0.08" in line["reason"]
    told = prompts_that_tell(judged.evidence[0], DEFAULT_BOOTSTRAP, 8.9)
    assert "as large as the published one" in told and told in line["reason"]


def test_three_ways_to_copy_say_the_same(main: PaperTable) -> None:
    copies = main.copies
    assert list(copies) == ["Markdown", "LaTeX", "CSV"]
    lines = copies["Markdown"].splitlines()
    assert len(lines) == 2 + len(main.rows) and len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert "Base \\| direct" in copies["Markdown"] and "the paper's method is better, as published" in lines[2]
    tex = copies["LaTeX"]
    assert tex.count("\\\\\n") == 1 + len(main.rows) and "$\\pm$" in tex and "extra_adapters" not in tex
    assert all(line.count(" & ") == tex.splitlines()[2].count(" & ") for line in tex.splitlines() if " & " in line)
    rows = list(csv.DictReader(io.StringIO(copies["CSV"])))
    direct = rows[0]
    assert (direct["overall_published"], direct["aesthetic"], direct["difference_published"]) == ("65.5", "", "8.9")
    assert float(direct["overall_low"]) < float(direct["overall"]) < float(direct["overall_high"])
    assert float(direct["difference"]) == pytest.approx(row_of(main, "direct").numbers[1], abs=1e-5)
    assert rows[2]["reason"] == WHY and rows[2]["overall"] == ""


def test_signs_that_mean_something_to_latex_are_escaped() -> None:
    text = Grid(("a_b", "%"), (("5 & 6 # {x}~^\\", "−1 ± 2"),)).latex()
    assert "a\\_b & \\%" in text
    assert "5 \\& 6 \\# \\{x\\}\\textasciitilde{}\\textasciicircum{}\\textbackslash{} & $-$1 $\\pm$ 2" in text


def test_the_page_says_what_the_figures_are_of(inputs: ReportInputs, ours: Ours, published: Mapping[str, Any]) -> None:
    vbench = {"protocol": "vbench_custom", "vbench_version": "0.1.5", "prompt_rewriting": "none"}
    provenance = {
        "base model": "Wan-AI/x (hub)", "target size": "2176x3840x81, 16 fps", "prompts": 64, "seeds": "0, 1",
        "vbench": vbench, "overall dimensions": "scene, color", "machine": "elsewhere",
    }  # fmt: skip
    assert dict(setting(provenance, ours.table)) == {
        "base model": "Wan-AI/x (hub)",
        "target size": "2176x3840x81, 16 fps",
        "prompts": "64, protocol vbench_custom",
        "sampling seeds": "0, 1",
        "training seeds": "at most 1 an arm",
        "VBench": "version 0.1.5",
        "prompt rewriting": "none",
        "overall is the plain mean of": "scene, color",
    }
    whole = replace(inputs, provenance=provenance, arms=ARMS, table=ours.table, scores=ours.scores, published=published)
    page = render(whole)
    assert page.index("2176x3840x81") < page.index("CineScale</", page.index('id="paper"')) and WHY in page
    for part in context(whole)["paper_tables"]:
        assert {len(row.cells) for row in part.rows} == {len(part.columns)}
    section = page[page.index('id="paper"') : page.index('id="plots"')]
    assert section.count("<textarea") == 6 and section.count("data-copies=") == 6
