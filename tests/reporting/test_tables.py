"""The table says what is best, what is missing and what cannot be compared."""

import csv
import io
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from vibe_pipeline.experiment.adapters import AdapterParams
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.attention import AttentionParams
from vibe_pipeline.experiment.tables import Experiment
from vibe_pipeline.reporting import blocks, narrative, tables
from vibe_pipeline.reporting.copies import Grid
from vibe_pipeline.reporting.glossary import number, spread, together, words
from vibe_pipeline.reporting.provenance import degradation_rows
from vibe_pipeline.reporting.report_inputs import ReportInputs


def block(inputs: ReportInputs, family: str) -> blocks.Block:
    shaped = blocks.ablation_blocks(inputs.table, inputs.scores, inputs.arms, inputs.reference_arms)
    return next(b for b in shaped if b.family == family)


def test_upsampling_comes_first_and_the_truth_last(inputs: ReportInputs) -> None:
    rows = block(inputs, "detail").rows
    assert (rows[0].arm, rows[-1].arm) == ("upsample", "truth")
    assert [r.arm for r in rows if r.is_reference] == ["full"]


def test_best_needs_a_clear_lead_and_bounds_do_not_compete(inputs: ReportInputs) -> None:
    best = tables.best_arms(inputs.table, inputs.scores, inputs.arms)
    assert best["band_correlation"] == "full_pixel"
    assert best["residual_noise"] == "refine_base"
    assert "high_frequency_share" not in best, "a metric without a better side has no best arm"
    assert "spectrum_distance" not in best, "two arms that are level have no best one"
    assert not tables.best_arms(inputs.table, inputs.scores.iloc[:0], inputs.arms)


def test_cells_compare_with_the_reference_by_direction(inputs: ReportInputs) -> None:
    detail = block(inputs, "detail")
    at = [c.metric for c in detail.columns].index
    naive = next(r for r in detail.rows if r.arm == "no_relay")
    assert naive.cells[at("residual_noise")].against == "worse"
    assert naive.cells[at("residual_noise")].n == 16
    assert all(not c.against for r in detail.rows if r.is_reference for c in r.cells)


def test_missing_scores_keep_their_reason(inputs: ReportInputs) -> None:
    table = inputs.table.copy()
    gone = (table["arm"] == "no_relay") & (table["metric"] == "flicker")
    table.loc[gone, ["mean", "status", "reason"]] = [float("nan"), "failed", "clip 3 is unreadable"]
    cells = blocks.ablation_blocks(table, inputs.scores, inputs.arms, {"full"})[0]
    cell = next(r for r in cells.rows if r.arm == "no_relay").cells[1]
    assert (cell.status, cell.reason, cell.mean) == ("failed", "clip 3 is unreadable", "")
    lines = tables.missing(table, inputs.arms)
    line = {"metric": "Flicker", "arms": "Without Relay", "status": "failed", "reason": "clip 3 is unreadable"}
    assert {"id": "flicker"} | line in lines
    assert [x["arms"] for x in lines if x["metric"] == "Aesthetic quality"] == ["all arms"]


def test_partly_scored_cells_say_what_is_left_out(inputs: ReportInputs) -> None:
    table = inputs.table.copy()
    table.loc[(table["arm"] == "full") & (table["metric"] == "flicker"), "reason"] = "1 of 16 left out: unreadable"
    detail = blocks.ablation_blocks(table, inputs.scores, inputs.arms, {"full"})[0]
    full = next(r for r in detail.rows if r.arm == "full")
    assert (full.cells[1].status, full.cells[1].reason) == ("scored", "1 of 16 left out: unreadable")
    line = next(x for x in tables.missing(table, inputs.arms) if x["metric"] == "Flicker")
    assert (line["status"], line["arms"]) == ("scored in part", "Full (ViBe)")


def test_a_note_beside_a_score_is_not_a_score_in_part(inputs: ReportInputs) -> None:
    table = inputs.table.copy()
    table.loc[(table["arm"] == "full") & (table["metric"] == "flicker"), "reason"] = "from 9 clips (18 patches)"
    line = next(x for x in tables.missing(table, inputs.arms) if x["metric"] == "Flicker")
    assert (line["status"], line["reason"]) == ("scored, with a note", "from 9 clips (18 patches)")


def test_metrics_no_arm_has_are_listed_not_dropped(inputs: ReportInputs) -> None:
    assert "Aesthetic quality" in block(inputs, "vbench").unscored
    line = next(x for x in tables.missing(inputs.table, inputs.arms) if x["metric"] == "Aesthetic quality")
    assert (line["id"], line["reason"]) == ("aesthetic_quality", "weights clip ViT-L-14 are not in the cache")


def test_a_block_is_copied_with_every_figure_in_a_cell_of_its_own(inputs: ReportInputs) -> None:
    copies = block(inputs, "detail").copies
    full = inputs.table[(inputs.table["arm"] == "full") & (inputs.table["metric"] == "flicker")].iloc[0]
    rows = list(csv.DictReader(io.StringIO(copies["CSV"])))
    row = next(row for row in rows if row["arm"] == "full")
    assert [float(row[f"flicker {part}"]) for part in ("mean", "low", "high", "n")] == [
        full["mean"], full["ci_low"], full["ci_high"], 16,
    ]  # fmt: skip
    assert copies["Markdown"].count("\n") == 2 + len(inputs.arms) and "| Full (ViBe) |" in copies["Markdown"]
    assert copies["LaTeX"].startswith("\\begin{tabular}") and "Flicker $\\downarrow$" in copies["LaTeX"]


def test_powers_and_arrows_are_latex_that_pdflatex_takes() -> None:
    assert "a $\\uparrow$ & 1.4 $\\times$ 10$^{-5}$ \\\\" in Grid(("", ""), (("a ↑", "1.4 × 10⁻⁵"),)).latex()


def test_upsampling_that_is_not_beaten_is_said(inputs: ReportInputs) -> None:
    unbeaten = tables.unbeaten_upsampling(inputs.table, inputs.arms)
    assert "PSNR, dB" in unbeaten
    assert "Band correlation" not in unbeaten


@pytest.mark.parametrize(
    ("degraded", "upsampled", "verdict"),
    [(1.03, 0.57, "harsher"), (0.58, 0.57, "fits"), (0.2, 0.57, "milder"), (float("nan"), 0.57, "unknown")],
)
def test_degradation_verdict(degraded: float, upsampled: float, verdict: str) -> None:
    assert narrative.degradation_verdict(degraded, upsampled)[0] == verdict


def test_every_degradation_is_named_with_what_its_kind_reads() -> None:
    rows: dict[str, dict[str, Any]] = {
        "a": {"factor": 0.25},
        "b": {"kind": "pixel"},
        "c": {"kind": "noise"},
        "d": {"kind": "blur", "sigma": 0.5},
    }
    adapters = {name: AdapterParams(label=name, start="base", degradation=d) for name, d in rows.items()}
    experiment = Experiment(stage1={}, adapters=adapters, arms={"x": ArmParams(label="x")}, reference_arm="x")
    figures = {"mse_degraded": 0.0025, "mse_upsampled": 0.5, "mse_between": 0.5}
    checks = pd.DataFrame([{"kind": "noise", "std": 0.05} | figures, {"kind": "noise", "std": 0.1} | figures])
    said = narrative.check_rows(degradation_rows(checks, experiment), adapters)
    assert [row["kind"] for row in said] == [
        "latent (the paper's), to 0.25, trilinear",
        "pixel (our own)",
        "noise on the latent (the authors tried it), standard deviation 0.05",
        "blurred latent (the authors tried it), kernel 5, sigma 0.5",
    ]
    assert [row["verdict"] for row in said] == ["unknown", "unknown", "milder", "unknown"]


def test_numbers_for_people() -> None:
    assert [number(v) for v in (0.0, 0.00312, -0.0451, 1.5, 23.24, 4321.0, float("nan"))] == [
        "0.00", "0.0031", "−0.045", "1.50", "23.2", "4,321", "–",
    ]  # fmt: skip
    assert [number(v) for v in (-2.6e-06, 1.25e7)] == ["−2.6 × 10⁻⁶", "1.2 × 10⁷"]
    assert together(-2.6e-06, -1.2e-04, 1.1e-04) == ["0.0000", "−0.0001", "0.0001"]
    assert together(0.5, float("nan"), -12.34) == ["0.5", "–", "−12.3"]
    assert spread(0.377, 22.94) == "0.4"
    assert words("never_heard_of").label == "Never heard of"


def test_an_arms_line_says_what_sets_it_apart() -> None:
    plain = ArmParams(label="a", steps=4, strength=0.05, guidance_scale=1.0)
    assert tables.arm_settings("a", {"a": plain}) == "no adapter · full attention · strength 0.05 · 4 steps"
    changes = {
        "0.5 of the change added": {"detail_transfer": 0.5},
        "UniPC": {"scheduler": "unipc"},
        "guidance 5": {"guidance_scale": 5.0},
        "FreeSwim": {"method": "freeswim", "attention": AttentionParams(kind="window")},
        "full path every 2 steps": {"method": "freeswim", "refresh_every": 2},
        "flow shift 9": {"flow_shift": 9.0},
        "35 of 50 steps": {"steps": 50, "strength": 0.7, "strength_mode": "truncated"},
        "gclf (4×, half window 3x5, scale freeswim) attention": {
            "attention": AttentionParams(kind="gclf", pool=4, half_window=(3, 5), scale="freeswim")
        },
        "another system's clips, from theirs": {"method": "external", "path": Path("theirs")},
    }
    for said, change in changes.items():
        line = tables.arm_settings("a", {"a": plain.model_copy(update=change)})
        assert said in line
