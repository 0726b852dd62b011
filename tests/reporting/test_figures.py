"""Figures show every arm, and follow the page's colours."""

import numpy as np
import pytest

from vibe_pipeline.reporting import figures
from vibe_pipeline.reporting.cost import cost_of
from vibe_pipeline.reporting.report_inputs import ReportInputs


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


def test_cost_is_set_against_processor_time(inputs: ReportInputs) -> None:
    clips = inputs.clips.assign(cpu_seconds=inputs.clips["seconds"])
    cost = cost_of(clips, inputs.arms, on_cpu=True)
    axes = figures.cost_figure(inputs.table, cost, "spectrum_distance", inputs.arms).axes[0]
    assert [t.get_text() for t in axes.texts] == ["1", "2", "3", "4", "5", "6"]
    assert axes.get_xlabel() == "processor seconds a clip"


def test_cost_on_a_device_or_of_older_clips_is_counted_in_evaluations(inputs: ReportInputs) -> None:
    arms = inputs.arms | {"no_relay": inputs.arms["no_relay"].model_copy(update={"guidance_scale": 1.0})}
    full = arms["full"]
    for clips, on_cpu in ((inputs.clips.assign(cpu_seconds=1.0), False), (inputs.clips, True)):
        cost = cost_of(clips.assign(seconds=np.random.default_rng(0).random(len(clips))), arms, on_cpu)
        assert cost.medians["full"] == 2 * full.steps and cost.medians["no_relay"] == full.steps
        assert cost.medians["upsample"] == 0 and cost.title == "transformer evaluations a clip"


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_svg_takes_its_colours_from_the_page(inputs: ReportInputs, stage: str) -> None:
    svg = figures.to_svg(figures.loss_figure(inputs.losses, stage, inputs.adapters), f"loss-{stage}", 'a "loss" < 1')
    assert svg.startswith("<svg ")
    assert 'aria-label="a &quot;loss&quot; &lt; 1"' in svg
    assert "currentColor" in svg
    assert figures.INK not in svg
    assert f'id="loss-{stage}-' in svg
    assert "<metadata>" not in svg
