"""The runs of arms: same names in every arm, nothing that a row does not have, no second run of what is the same."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from vibe_pipeline import tracking
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.experiment.run import TrackingParams
from vibe_pipeline.io.video import write_lossless, write_preview
from vibe_pipeline.reporting.arm_pictures import pages
from vibe_pipeline.reporting.arm_runs import (
    ArmRecord,
    compare_address,
    log_arm_runs,
    note_on_arms,
    several_have,
)
from vibe_pipeline.tracking.views import View, kept_view

ARMS = {
    "full": ArmParams(label="Full", steps=6, strength=0.15),
    "direct": ArmParams(label="Direct", method="direct"),
    "upsample": ArmParams(label="Upsampled", method="upsample"),
}
GENERATION = GenerationParams(prompts="miniature", count=1)


def table_of(scores: dict[str, float]) -> pd.DataFrame:
    rows = [
        {"arm": arm, "metric": "psnr", "family": "detail", "direction": "higher", "status": "scored", "reason": ""}
        | {"mean": mean, "ci_low": mean - 1, "ci_high": mean + 1}
        for arm, mean in scores.items()
    ]
    skipped = {"metric": "aesthetic_quality", "family": "vbench", "status": "skipped", "reason": "no weights"}
    alone = {"metric": "flicker", "family": "detail", "direction": "lower", "status": "scored", "mean": 0.5}
    return pd.DataFrame([*rows, rows[0] | skipped | {"mean": float("nan")}, rows[0] | alone])


@pytest.fixture
def records(tmp_path: Path) -> list[ArmRecord]:
    table, found = table_of({"full": 30.0, "direct": 20.0, "upsample": 25.0}), []
    for arm in ARMS:
        frames = np.random.default_rng(0).random((5, 32, 32, 3), np.float32)
        path = write_lossless(tmp_path / arm / "0000-0-ab12.mp4", frames, 8.0)
        preview = write_preview(tmp_path / arm / "0000-0-ab12.preview.mp4", frames, 8.0)
        clip = {"arm": arm, "prompt_index": 0, "prompt": "a red, dotted cross", "seed": 0, "key": f"key of {arm}"}
        clips = pd.DataFrame([clip | {"path": str(path), "preview_path": str(preview), "frames": 5, "seconds": 90.0}])
        found.append(ArmRecord(arm, ARMS[arm], table[table["arm"] == arm], clips))
    return found


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., MlflowClient]:
    """Opens a parent run."""
    for name in (tracking.PARENT, tracking.URI):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)

    def run(**tags: str) -> MlflowClient:
        tracking.start_parent(TrackingParams(), tmp_path, "base", tags, {})
        return MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")

    return run


def by_row(client: MlflowClient) -> dict[str, Run]:
    runs = client.search_runs(["1"], "tags.kind = 'arm'", order_by=["attributes.start_time"])
    return {run.data.tags["row"]: run for run in runs}


def test_arms_share_names_of_artefacts_and_have_their_own_settings_alone(start, records) -> None:
    client = start(changed="native_source=truth")
    log_arm_runs(records, GENERATION, 1)
    runs = by_row(client)
    assert list(runs) == list(ARMS)
    for run in runs.values():
        files = {a.path for a in client.list_artifacts(run.info.run_id)}
        assert files == {"clips", "images", "scores.csv"}
        assert [a.path for a in client.list_artifacts(run.info.run_id, "clips")] == ["clips/0000-0.mp4"]
        keys = {Path(a.path).name.split("+step+")[0] for a in client.list_artifacts(run.info.run_id, "images")}
        assert keys == {"clips~0000-0 a red dotted cross"}
        (data,) = run.inputs.dataset_inputs
        assert (data.dataset.name, data.tags[0].value) == ("prompts", "evaluation")
        assert run.info.end_time - run.info.start_time == pytest.approx(90_000, abs=20_000)
    params = {name: set(run.data.params) for name, run in runs.items()}
    own = {"strength", "strength_mode", "steps", "attention.kind", "guidance_scale"}
    assert {name: found & own for name, found in params.items()} == {
        "full": own,
        "direct": own - {"strength", "strength_mode"},
        "upsample": set(),
    }
    assert "attention.pool" not in params["full"]
    assert runs["full"].data.params["generation.native_source"] == "base"
    assert runs["full"].info.run_name == "full · native_source=truth"
    assert runs["upsample"].data.metrics == {"detail/psnr": 25.0, "time/seconds_per_clip": 90.0}
    assert runs["full"].data.tags["missing.aesthetic_quality"] == "no weights"


def test_a_run_in_which_nothing_changed_adds_no_arms_and_points_at_the_earlier_ones(start, records) -> None:
    client = start()
    first = log_arm_runs(records, GENERATION, 1)
    assert not first.earlier
    tracking.end_parent("FINISHED")
    start()
    again = log_arm_runs(records, GENERATION, 1)
    assert (again.runs, again.earlier) == (first.runs, True)
    table = pd.concat(record.rows for record in records)
    note_on_arms(table, ["psnr"], again)
    parent = client.get_run(tracking.parent_run().run_id)
    note = parent.data.tags["mlflow.note.content"]
    assert "Nothing changed" in note and "| upsample | 25.0 |" in note and "PSNR, dB ↑" in note
    assert compare_address(first.runs.values(), "1") in note
    # More clips to keep, another score, or an arm that is new, and all are there again, to be compared in one run.
    assert not log_arm_runs(records, GENERATION, 0).earlier
    assert len(client.search_runs(["1"], "tags.kind = 'arm'")) == 2 * len(ARMS)


def test_the_description_leads_to_views_that_show_every_arm_and_no_parameters(start, records) -> None:
    client = start()
    recorded = log_arm_runs(records, GENERATION, 1)
    parent = tracking.parent_run().run_id
    note_on_arms(pd.concat(record.rows for record in records), ["psnr"], recorded)
    note, tags = client.get_run(parent).data.tags["mlflow.note.content"], client.get_experiment("1").tags
    views = {k.removeprefix("mlflow.sharedViewState."): json.loads(v) for k, v in tags.items() if "sharedView" in k}
    assert set(views) == {f"{parent}-charts", f"{parent}-1"}
    for key in views:
        assert f"&viewStateShareKey={key})" in note
    (card,) = views[f"{parent}-1"]["compareRunCharts"]
    assert card["imageKeys"] == ["clips/0000-0 a red dotted cross"]
    assert (card["step"], card["showRunParams"], card["deleted"]) == (2, False, False)
    (gone,) = views[f"{parent}-charts"]["compareRunCharts"]
    assert gone["deleted"] and gone["imageKeys"] == card["imageKeys"], "pictures stand in one view alone"
    places = {run.data.tags["row"]: run.data.tags["place"] for run in by_row(client).values()}
    assert sorted(places, key=places.__getitem__) == ["upsample", "full", "direct"]


def test_a_view_that_a_tag_cannot_hold_loses_its_looks_and_not_its_runs(start) -> None:
    client = start()
    view = View(f"attributes.run_id IN ({', '.join(['x' * 32] * 150)})", "tags.`place`")
    address = kept_view(tracking.parent_run(), "1", "long", view)
    assert "viewStateShareKey" not in address and address.count("x" * 32) == 150
    assert not any("sharedView" in name for name in client.get_experiment("1").tags)


def test_pages_of_pictures_hold_what_the_grid_shows_each_with_its_bounds() -> None:
    many = {"truth": ArmParams(label="True", method="truth")} | {f"arm{i:02}": ARMS["full"] for i in range(17)}
    found = pages(many | {"upsample": ARMS["upsample"]})
    assert [len(page) for page in found] == [10, 10, 3]
    assert all((page[0], page[-1]) == ("upsample", "truth") for page in found)
    assert [arm for page in found for arm in page[1:-1]] == [f"arm{i:02}" for i in range(17)]
    assert pages(ARMS) == [["upsample", "full", "direct"]]


def test_a_measure_that_one_arm_alone_has_compares_nothing() -> None:
    assert set(several_have(table_of({"full": 1.0, "upsample": 2.0}))["metric"]) == {"psnr"}
    assert several_have(pd.DataFrame()).empty
