"""Figures show every arm, and follow the page's colours."""

import numpy as np
import pytest

from vibe_pipeline.reporting import figures
from vibe_pipeline.reporting.page import ReportInputs, cost_metric


def test_spectra_draw_the_power_of_every_arm(inputs: ReportInputs) -> None:
    lines = figures.spectrum_figure(inputs.spectra, inputs.arms, (13, 20)).axes[0].get_lines()
    drawn = sorted(float(line.get_ydata()[0]) for line in lines)
    assert drawn == pytest.approx(sorted(inputs.spectra.groupby("arm")["power"].first()))


def test_metric_figure_names_all_arms_and_what_is_missing(inputs: ReportInputs) -> None:
    table = inputs.table.copy()
    table.loc[(table["arm"] == "no_relay") & (table["metric"] == "psnr"), ["mean", "status"]] = [np.nan, "failed"]
    axes = figures.metric_figure(table, "psnr", inputs.arms, {"full"}).axes[0]
    assert {t.get_text() for t in axes.get_yticklabels()} == {a.label for a in inputs.arms.values()}
    assert [t.get_text() for t in axes.texts] == ["failed"]


def test_cost_sets_the_first_known_metric_against_time(inputs: ReportInputs) -> None:
    assert cost_metric(inputs.table) == "spectrum_distance"
    axes = figures.cost_figure(inputs.table, inputs.clips, "spectrum_distance", inputs.arms).axes[0]
    assert [t.get_text() for t in axes.texts] == ["1", "2", "3", "4", "5", "6"]


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_svg_takes_its_colours_from_the_page(inputs: ReportInputs, stage: str) -> None:
    svg = figures.to_svg(figures.loss_figure(inputs.losses, stage, inputs.adapters), f"loss-{stage}", 'a "loss" < 1')
    assert svg.startswith("<svg ")
    assert 'aria-label="a &quot;loss&quot; &lt; 1"' in svg
    assert "currentColor" in svg
    assert figures.INK not in svg
    assert f'id="loss-{stage}-' in svg
    assert "<metadata>" not in svg
