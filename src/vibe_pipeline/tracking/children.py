"""The child runs: one per adapter and per arm."""

import contextlib
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from pydantic import BaseModel

from vibe_pipeline.experiment.adapters import AdapterParams
from vibe_pipeline.experiment.training import Stage1Params
from vibe_pipeline.io.files import write_atomic
from vibe_pipeline.io.manifests import AdapterManifest
from vibe_pipeline.io.redact import redact
from vibe_pipeline.runtime.deadline import OutOfTimeError
from vibe_pipeline.runtime.torchrun import is_follower
from vibe_pipeline.tracking.runs import LONGEST_PARAM, PARENT, Curve, Tracked, connected, flatten

log = logging.getLogger(__name__)

HOLDER, OPEN = "mlflow_run_id", "mlflow_open_run"
"""Files in an adapter's folder: the run that holds its upload; the run of a training that has not ended."""

BATCH_SECONDS = 5.0
LEADER_SECONDS = 300.0
"""How long the leading process may take to upload an adapter."""

SHARED = (
    "generation.seeds",
    "generation.prompts",
    "generation.count",
    "generation.native_source",
    "model.path",
    "model.target.height",
    "model.target.width",
)
"""Parameters of the parent that an arm repeats, so that arms of different runs can be set side by side."""


class TrackedAdapter(Tracked):
    """The run of one adapter.

    Args:
        client: None tracks nothing.
        run_id: An open run.
        known: Steps that its curve has already.
        pause: Seconds between two batches of the curve; the first goes at once.
    """

    def __init__(
        self,
        client: MlflowClient | None,
        run_id: str = "",
        known: Iterable[int] = (),
        pause: float = BATCH_SECONDS,
    ) -> None:
        super().__init__(client, run_id)
        self._curve = Curve(self, set(known), pause)

    def log(self, records: list[dict[str, float]]) -> None:
        """Take log lines; they reach the store in batches, while training runs, and each step once."""
        if self.client is not None:
            self._curve.add(records)

    def flush(self) -> None:
        """Send what waits."""
        if self.client is not None:
            self._curve.send()

    def finish(self, manifest: AdapterManifest) -> AdapterManifest:
        """Record the outcome; the adapter is uploaded once to a store, by the run that trained it.

        Returns:
            The manifest, with the id of the run that holds the artifact.
        """
        folder = manifest.path.parent
        home = folder / HOLDER
        if is_follower():
            _await(home)
        if manifest.reused:
            self.log(pd.read_csv(manifest.losses).to_dict("records"))
        held = self.client is None or (home.exists() and _active(self.client, home.read_text()))
        if not held and self.artifact(manifest.path, "adapter") and self.artifact(manifest.losses):
            write_atomic(home, lambda p: p.write_text(self.run_id))
        (folder / OPEN).unlink(missing_ok=True)
        holder = home.read_text() if home.exists() else ""
        self.tags({"adapter_key": manifest.key, "adapter_run_id": holder, "reused": manifest.reused})
        outcome = {
            "final_loss": manifest.final_loss,
            "held_out_loss": manifest.held_out_loss,
            "training_seconds": manifest.seconds,
        }
        super().log([{name: value for name, value in outcome.items() if value is not None}])
        return manifest.model_copy(update={"run_id": holder})


def _say_untracked(name: str, error: Exception) -> None:
    """The server went away after the run was opened: the work goes on."""
    log.warning("%s is not tracked, as MLflow does not answer: %s", name, redact(str(error)))


def _await(file: Path) -> None:
    """Wait for what the leading process writes; all of them save the same manifest."""
    end = time.monotonic() + LEADER_SECONDS
    while not file.exists() and time.monotonic() < end:
        time.sleep(0.2)


def _active(client: MlflowClient, run_id: str) -> Run | None:
    """The run, unless it is of another store or was deleted."""
    try:
        run = client.get_run(run_id)
    except MlflowException:
        return None
    return run if run.info.lifecycle_stage == "active" else None


def _new_child(client: MlflowClient, name: str, tags: Mapping[str, str]) -> str:
    parent = os.environ[PARENT]
    experiment = client.get_run(parent).info.experiment_id
    tags = {k: redact(v) for k, v in tags.items()} | {"mlflow.parentRunId": parent}
    run = client.create_run(experiment, run_name=name, tags=tags)
    return run.info.run_id


def _settings(row: BaseModel) -> dict[str, Any]:
    """The row, and its objective in words: a column to compare by."""
    if isinstance(row, AdapterParams):
        words = " + ".join(k if v == 1 else f"{v:g} {k}" for k, v in row.objective.items())
    else:
        words = "velocity" if isinstance(row, Stage1Params) else ""
    return row.model_dump(mode="json") | ({"objective_name": words} if words else {})


@contextlib.contextmanager
def _ending(run: Tracked) -> Iterator[None]:
    """Close a child as its work ended."""
    status = "FAILED"
    try:
        yield
        status = "FINISHED"
    except (KeyboardInterrupt, OutOfTimeError):
        status = "KILLED"
        raise
    finally:
        if isinstance(run, TrackedAdapter):
            run.flush()
        if run.client is not None:
            try:
                run.client.set_terminated(run.run_id, status)
            except (MlflowException, OSError) as error:
                log.warning("the MLflow run %s could not be closed as %s: %s", run.run_id, status, redact(str(error)))


@contextlib.contextmanager
def tracked_adapter(
    name: str, stage: str, row: BaseModel, checks: pd.DataFrame | None = None, folder: Path | None = None
) -> Iterator[TrackedAdapter]:
    """The child run of an adapter, with the degradation check that preceded stage 2.

    Args:
        name: The row's name, which becomes the run's.
        stage: `stage1` or `stage2`.
        row: How it is trained.
        checks: The check of the row's own degradation, where it has one.
        folder: Where the training keeps its checkpoints. The run's id is kept there until the training ends, so that
            one that was interrupted goes on in the same run, under its new parent.
    """
    found, run = connected(), TrackedAdapter(None)
    if found is not None:
        try:
            run = _interrupted(found[0], folder, row) or _fresh(found[0], name, stage, row, checks)
        except (MlflowException, OSError) as error:
            _say_untracked(name, error)
    if folder is not None and run.client is not None:
        write_atomic(folder / OPEN, lambda p: p.write_text(run.run_id))
    with _ending(run):
        yield run


def _fresh(client: MlflowClient, name: str, stage: str, row: BaseModel, checks: pd.DataFrame | None) -> TrackedAdapter:
    run = TrackedAdapter(client, _new_child(client, name, {"kind": "adapter", "stage": stage}))
    run.params(_settings(row))
    for check in checks.itertuples() if checks is not None else ():
        figures = {f"check.{check.kind}.{k}": getattr(check, k) for k in checks.columns if k.startswith("mse")}
        Tracked.log(run, [figures])
    return run


def _interrupted(client: MlflowClient, folder: Path | None, row: BaseModel) -> TrackedAdapter | None:
    """The run of a training that was interrupted in this folder, open again; None if there is none."""
    if folder is None or not (folder / OPEN).exists():
        return None
    found = _active(client, (folder / OPEN).read_text())
    if found is None or found.info.status == "FINISHED":
        return None
    run_id, tags = found.info.run_id, found.data.tags
    steps = {m.step for m in client.get_metric_history(run_id, "loss")}
    run = TrackedAdapter(client, run_id, steps)
    client.update_run(run_id, status="RUNNING")
    began = tags.get("began_in") or tags["mlflow.parentRunId"]
    run.tags({"mlflow.parentRunId": os.environ[PARENT], "began_in": began, "resumed_after_step": max(steps, default=0)})
    # Parameters of a run cannot be changed; what changed does not determine the adapter, such as `log_every`.
    now = {k: v[:LONGEST_PARAM] for k, v in flatten(_settings(row)).items()}
    run.tags({f"on_resuming.{k}": v for k, v in now.items() if found.data.params.get(k, v) != v})
    return run


@contextlib.contextmanager
def tracked_arm(name: str, row: BaseModel, tags: Mapping[str, str]) -> Iterator[Tracked]:
    """The child run of an arm: its settings, those of its adapter's training, and what the whole run shares.

    `tags` may hold `adapter_run_id`, the run that the adapter's settings are taken from.
    """
    client, parent = connected() or (None, "")
    run, shared = Tracked(None), {}
    if client is not None:
        try:
            run = Tracked(client, _new_child(client, name, {"kind": "arm"} | dict(tags)))
            shared = client.get_run(parent).data.params
        except (MlflowException, OSError) as error:
            _say_untracked(name, error)
    with _ending(run):
        run.params(row)
        if run.client is not None:
            run.params({k: shared[k] for k in SHARED if k in shared})
            run.params(_training_settings(run.client, tags.get("adapter_run_id", "")))
        yield run


def _training_settings(client: MlflowClient, adapter_run: str) -> dict[str, str]:
    found = _active(client, adapter_run) if adapter_run else None
    return {f"training.{k}": v for k, v in found.data.params.items()} if found else {}
