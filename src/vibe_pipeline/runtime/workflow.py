"""Statuses and times of a run's nodes for Kedro-Viz's workflow view, whatever runner runs them and however many.

Kedro-Viz keeps them by itself only of a sequential run of the whole graph. Here every process notes its nodes in one
file of lines, and the run's first process makes Kedro-Viz's file of events from it when the run ends.
"""

import json
import os
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from vibe_pipeline.io.errors import one_line
from vibe_pipeline.io.redact import redact

if TYPE_CHECKING:
    from kedro.io import CatalogProtocol
    from kedro.pipeline import Node

NOTES = "VIBE_WORKFLOW"
"""The variable that names the file of notes, for processes that the run starts."""

FOLDER = Path(".viz")


def begin_workflow(project: Path) -> None:
    """Start noting; nothing is noted where Kedro-Viz is not installed."""
    if find_spec("kedro_viz") is None:
        return
    folder = project / FOLDER
    folder.mkdir(exist_ok=True)
    for left in folder.glob("nodes_*.jsonl"):  # by a run that was killed outright
        if not psutil.pid_exists(int(left.stem.removeprefix("nodes_"))):
            left.unlink(missing_ok=True)
    file = folder / f"nodes_{os.getpid()}.jsonl"
    file.write_text(json.dumps({"begun": time.time()}) + "\n", encoding="utf-8")
    os.environ[NOTES] = str(file)


def note_node(name: str, seconds: float, error: Exception | None = None) -> None:
    """Note that a node ended; from the process that ran it. One line is written whole, beside those of others."""
    if NOTES not in os.environ:
        return
    said = {"node": name, "seconds": seconds} | ({"error": redact(one_line(error))} if error else {})
    with Path(os.environ[NOTES]).open("a", encoding="utf-8") as notes:
        notes.write(json.dumps(said) + "\n")


def end_workflow(nodes: Iterable["Node"], catalog: "CatalogProtocol", error: BaseException | None = None) -> None:
    """Hand what was noted to Kedro-Viz.

    Args:
        nodes: Of the pipeline that ran.
        catalog: Tells how large a dataset is.
        error: What the run ended with.
    """
    file = os.environ.pop(NOTES, "")
    if not file:
        return
    first, *noted = (json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines())
    Path(file).unlink()
    by_name = {node.name: node for node in nodes}
    events: list[dict[str, Any]] = [{"event": "before_pipeline_run", "timestamp": _stamp(first["begun"])}]
    for note in noted:
        if note["node"] in by_name:
            events += _events(by_name[note["node"]], note, catalog)
    events.append({"event": "after_pipeline_run", "timestamp": _stamp(time.time())})
    if error is not None:
        events[-1] |= {"event": "on_pipeline_error", "error": redact(one_line(error))}
    # Its name and place are what Kedro-Viz reads.
    Path(file).with_name("kedro_pipeline_events.json").write_text(json.dumps(events), encoding="utf-8")


def _events(node: "Node", note: Mapping[str, Any], catalog: "CatalogProtocol") -> list[dict[str, Any]]:
    """A node's end, and what it read and wrote, as Kedro-Viz's own hooks tell it."""
    from kedro_viz.integrations.kedro.hooks_utils import hash_node
    from kedro_viz.integrations.kedro.run_hooks import create_dataset_event

    ended = {"node": node.name, "node_id": hash_node(node), "duration": note["seconds"]}
    if "error" in note:
        return [{"event": "on_node_error", "error": note["error"], **ended}]
    read = [create_dataset_event("after_dataset_loaded", name, True, catalog) for name in node.inputs]
    written = [create_dataset_event("after_dataset_saved", name, True, catalog) for name in node.outputs]
    return [*read, {"event": "after_node_run", "status": "success", **ended}, *written]


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
