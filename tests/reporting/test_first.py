"""The first screen says which arm is best, by how much, and shows the true render only where it is the same scene."""

from dataclasses import replace

from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.reporting import first, gallery
from vibe_pipeline.reporting.report_inputs import ReportInputs


def roles(inputs: ReportInputs) -> first.Roles:
    return first.roles_of(inputs.table, inputs.clips, inputs.arms)


def test_the_best_arm_is_the_one_with_the_best_leading_measure_and_no_bound(inputs: ReportInputs) -> None:
    assert first.leading_metric(inputs.table, inputs.arms) == "spectrum_distance"
    rows = inputs.table[(inputs.table["metric"] == "spectrum_distance")].set_index("arm")["mean"]
    assert roles(inputs) == first.Roles("upsample", rows.drop(["upsample", "truth"]).idxmin(), "truth")


def test_what_enlarges_single_frames_is_a_bar_and_not_the_best_arm(inputs: ReportInputs) -> None:
    """A filter, or a network trained on true pairs, may win on every measure; the page is about the video model."""
    best = roles(inputs).best
    for method, stays in (({"method": "linear"}, False), ({"method": "external", "path": "x"}, True)):
        changed = inputs.arms | {best: ArmParams(label="x", **method)}
        assert (roles(replace(inputs, arms=changed)).best == best) == stays, method


def test_the_sentence_has_the_tables_figures(inputs: ReportInputs) -> None:
    found = roles(inputs)
    rows = first.first_rows(inputs.table, inputs.scores, found, inputs.arms, inputs.bootstrap)
    assert len(rows) == first.ROWS and rows[0].metric == "spectrum_distance"
    said = first.outcome(rows, found, inputs.arms, 16)
    assert said.before.startswith(f"The best arm on 16 prompts, {inputs.arms[found.best].label}")
    assert said.figures == (
        f"spectrum distance {rows[0].cells[1]} against {rows[0].cells[0]} for plain upsampling and {rows[0].cells[2]} "
        "for the true render"
    )
    assert "a clear gain" in said.after and rows[0].gain.kind == "better" and rows[0].gain.text.startswith("−")


def test_fewer_prompts_than_an_interval_needs_give_no_clear_gain(inputs: ReportInputs) -> None:
    """No claim can be told from them, and the sentence above the claims must not say otherwise."""
    found = roles(inputs)
    few = inputs.scores[inputs.scores["prompt_index"] < inputs.bootstrap.fewest_pairs - 1]
    rows = first.first_rows(inputs.table, few, found, inputs.arms, inputs.bootstrap)
    assert rows[0].gain.kind == "few" and "too few prompts" in first.outcome(rows, found, inputs.arms, 5).after


def test_beside_the_bases_own_clips_the_true_render_is_another_scene(inputs: ReportInputs) -> None:
    other = replace(inputs, clips=inputs.clips.assign(native_source="base"))
    assert roles(other).truth == ""
    assert "True render" not in gallery.sheets(other.clips, other.arms, 1, 10_000_000)[0].alt
    take = gallery.takes(other.clips, other.arms, 1, 10_000_000)[0]
    assert take.reels[-1].label == "True render, through the VAE (another scene of this caption)"
    same = gallery.takes(inputs.clips, inputs.arms, 1, 10_000_000)[0]
    assert same.reels[-1].label == "True render, through the VAE"


def test_a_run_without_scores_or_clips_has_no_sentence(bare: ReportInputs) -> None:
    assert roles(bare) == first.Roles("", "", "")
    assert first.outcome([], roles(bare), bare.arms, 0) is None
