"""Statuses and times of nodes reach Kedro-Viz, from other processes too."""

import json
import multiprocessing
import os
from pathlib import Path

import pytest
from kedro.io import DataCatalog
from kedro.pipeline import Node
from kedro_viz.api.rest.responses.run_events import transform_events_to_structured_format
from kedro_viz.integrations.kedro.hooks_utils import hash_node

from vibe_pipeline.runtime.workflow import NOTES, begin_workflow, end_workflow, note_node


def passed(value: int) -> int:
    return value


@pytest.fixture(autouse=True)
def no_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NOTES, "")
    monkeypatch.delenv(NOTES)


@pytest.fixture
def nodes() -> list[Node]:
    return [Node(passed, "a", "b", name="first"), Node(passed, "b", "c", name="second")]


def status(project: Path) -> dict:
    events = json.loads((project / ".viz/kedro_pipeline_events.json").read_text())
    return transform_events_to_structured_format(events).model_dump(mode="json")


def test_nodes_of_other_processes_have_status_time_and_the_size_of_what_they_wrote(tmp_path: Path, nodes) -> None:
    (tmp_path / "c.json").write_text("12345")
    catalog = DataCatalog.from_config({"c": {"type": "json.JSONDataset", "filepath": str(tmp_path / "c.json")}})
    begin_workflow(tmp_path)
    for node, seconds in zip(nodes, (1.5, 2.5), strict=True):
        process = multiprocessing.get_context("fork").Process(target=note_node, args=(node.name, seconds))
        process.start()
        process.join()
    end_workflow(nodes, catalog)
    found = status(tmp_path)
    assert [found["nodes"][hash_node(n)]["duration"] for n in nodes] == [1.5, 2.5]
    assert {n["status"] for n in found["nodes"].values()} == {"success"}
    assert {d["name"]: d["size"] for d in found["datasets"].values()}["c"] == 5
    assert found["pipeline"]["status"] == "success" and found["pipeline"]["end_time"]
    assert [p.name for p in (tmp_path / ".viz").iterdir()] == ["kedro_pipeline_events.json"]


def test_a_run_that_failed_says_where_and_why(tmp_path: Path, nodes) -> None:
    begin_workflow(tmp_path)
    note_node("first", 1.0)
    error = ValueError("no such file at https://me:secret@host/x")
    note_node("second", 0.5, error)
    end_workflow(nodes, DataCatalog(), error)
    found = status(tmp_path)
    first, second = (found["nodes"][hash_node(n)] for n in nodes)
    assert (first["status"], second["status"], found["pipeline"]["status"]) == ("success", "failed", "failed")
    assert "no such file" in second["error"]["message"] and "secret" not in json.dumps(found)


def test_notes_that_a_killed_run_left_go_and_those_of_a_living_one_stay(tmp_path: Path, nodes) -> None:
    folder = tmp_path / ".viz"
    folder.mkdir()
    dead = multiprocessing.get_context("fork").Process(target=int)
    dead.start()
    dead.join()
    for pid in (dead.pid, os.getppid()):
        (folder / f"nodes_{pid}.jsonl").write_text("{}")
    begin_workflow(tmp_path)
    end_workflow(nodes, DataCatalog())
    assert {p.name for p in folder.glob("nodes_*")} == {f"nodes_{os.getppid()}.jsonl"}


def test_outside_a_run_nothing_is_noted(tmp_path: Path, nodes) -> None:
    note_node("first", 1.0)
    end_workflow(nodes, DataCatalog())
    assert not (tmp_path / ".viz").exists()
