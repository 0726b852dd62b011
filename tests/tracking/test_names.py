"""What runs are called, and what MLflow's own columns show of them."""

import getpass

import pytest

from vibe_pipeline.tracking import changes, part_of, run_name, run_parameters, run_tags


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, ""),
        ({"generation": {"native_source": "truth"}}, "native_source=truth"),
        (
            {"generation.native_source": "truth", "tracking.uri": "sqlite:///x.db", "run": {"hours": 3}},
            "native_source=truth",
        ),
        ({"arms": {"full": {"steps": 3}, "other": {"steps": 4}}}, "full_steps=3, other_steps=4"),
        ({f"a.field{i}": i for i in range(5)}, "field0=0, field1=1, field2=2, and 2 more"),
    ],
)
def test_a_name_says_what_the_command_line_changed(given: dict, said: str) -> None:
    assert changes(given) == said


def test_a_run_is_named_by_environment_pipelines_and_changes() -> None:
    assert run_name("base", "__default__", "", "") == "base"
    assert run_name("base", "generation", "", "native_source=truth") == "base · generation · native_source=truth"
    asked = {"node_names": ["write_page"], "tags": (), "from_nodes": ["measure"], "pipeline_names": ["__default__"]}
    assert run_name("base", "__default__", part_of(asked), "") == "base · write_page, from measure"
    assert part_of({}) == "" and part_of({"tags": ["ablation_report"]}) == "tag ablation_report"


def test_tags_tell_two_runs_apart_by_what_they_make(tmp_path) -> None:
    """Where a run lies, how long it may take and anchors that rows repeat change nothing that it makes."""
    params = {"model": {"path": "a"}, "run": {"hours": 1}, "not_run": {"sr": {"reason": "no weights"}}, "arms": {}}
    tags = run_tags(params, tmp_path, "")
    assert tags["not_run.sr"] == "no weights" and "changed" not in tags
    same = run_tags({**params, "run": {"hours": 2}, "folders": {"data": "x"}, "_anchor": 1}, tmp_path, "hours=2")
    assert same["config_hash"] == tags["config_hash"] and same["changed"] == "hours=2"
    assert run_tags({**params, "model": {"path": "b"}}, tmp_path, "")["config_hash"] != tags["config_hash"]
    assert run_parameters({**params, "_anchor": 1}) == {"model": {"path": "a"}, "run": {"hours": 1}}


def test_mlflows_columns_are_filled_and_children_repeat_them(parent, children, monkeypatch) -> None:
    from vibe_pipeline.experiment.arms import ArmParams
    from vibe_pipeline.tracking import tracked_arm

    client, parent_id = parent
    with tracked_arm("full", ArmParams(label="A"), {"adapter": "none"}):
        pass
    (child,) = children(parent_id)
    for run in (client.get_run(parent_id), child):
        assert run.data.tags["mlflow.user"] == getpass.getuser()
        assert run.data.tags["mlflow.source.git.commit"] == "abc"
        assert run.data.tags["mlflow.source.name"]
    experiment = client.get_experiment(child.info.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
