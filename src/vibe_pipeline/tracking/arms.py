"""The child runs of arms, which are what is compared."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from pydantic import BaseModel

from vibe_pipeline.tracking.children import MODEL, active, ending, new_child, say_untracked
from vibe_pipeline.tracking.parent import CHANGED
from vibe_pipeline.tracking.runs import PARENT, ROW, Tracked, connected

SHARED = (
    "model.path",
    "model.target.height",
    "model.target.width",
)
"""Parameters of the parent that an arm repeats, so that arms of different runs can be set side by side."""

CONTENT = "content"
"""The tag of an arm's run that holds a hash of all that the run holds."""

PLACE = "place"
"""The tag of an arm's run by which runs are sorted: where the arm stands among those of its `kedro run`."""


@contextlib.contextmanager
def tracked_arm(
    name: str, settings: Mapping[str, Any] | BaseModel, tags: Mapping[str, str], seconds: float = 0.0
) -> Iterator[Tracked]:
    """The child run of an arm: its settings, those of its adapter's training, and what the whole run shares.

    Args:
        name: The row's; the run's own name says behind it what the command line changed.
        settings: What the arm has been made with.
        tags: May hold `adapter_run_id`, the run that the adapter's settings are taken from.
        seconds: That making its clips took: the run began so long ago.
    """
    client, run, shared = (connected() or (None, ""))[0], Tracked(None), {}
    if client is not None:
        try:
            parent = client.get_run(os.environ[PARENT])
            shown = " · ".join(filter(None, [name, parent.data.tags.get(CHANGED)]))
            opened = new_child(client, parent, shown, {"kind": "arm", ROW: name} | dict(tags), seconds)
            run, shared = Tracked(client, opened), parent.data.params
        except (MlflowException, OSError) as error:
            say_untracked(name, error)
    with ending(run):
        run.params(settings)
        if run.client is not None:
            run.params({k: shared[k] for k in SHARED if k in shared})
            run.params(_training_settings(run.client, tags.get("adapter_run_id", "")))
        yield run


def _training_settings(client: MlflowClient, adapter_run: str) -> dict[str, str]:
    found = active(client, adapter_run) if adapter_run else None
    return {f"training.{k}": v for k, v in found.data.params.items()} if found else {}


def model_of(adapter_run: str) -> str:
    """The logged model of an adapter's run; '' if this store has none."""
    client = (connected() or (None, ""))[0]
    found = active(client, adapter_run) if client is not None and adapter_run else None
    return found.data.tags.get(MODEL, "") if found else ""


def same_arms(contents: Mapping[str, str]) -> dict[str, str]:
    """The runs in which these arms were recorded before, each of the same content; empty if any of them is new.

    Args:
        contents: For every arm, the hash of all that its run would hold; see :data:`CONTENT`.

    Returns:
        Ids of runs, by arm.
    """
    found = connected()
    if found is None:
        return {}
    client, parent = found
    runs: dict[str, str] = {}
    try:
        experiment = client.get_run(parent).info.experiment_id
        for arm, content in contents.items():
            query = f"tags.{CONTENT} = '{content}' and attributes.status = 'FINISHED'"
            for run in client.search_runs([experiment], query, max_results=1):
                runs[arm] = run.info.run_id
    except (MlflowException, OSError) as error:
        say_untracked("what earlier runs hold", error)
        return {}
    return runs if len(runs) == len(contents) else {}


def place_arms(runs: Mapping[str, str], places: Mapping[str, int]) -> None:
    """Tag runs with where their arms stand now.

    Args:
        runs: Ids, by arm; '' is passed over.
        places: By arm, from 0.
    """
    client = (connected() or (None, ""))[0]
    for arm, run_id in runs.items():
        if run_id:
            Tracked(client, run_id).tags({PLACE: f"{places[arm]:04d}"})
