"""The child runs of adapters, and what those of arms share with them."""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
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
from vibe_pipeline.tracking.models import log_adapter
from vibe_pipeline.tracking.runs import LONGEST_PARAM, PARENT, ROW, TRAINING, Curve, Tracked, connected, flatten

log = logging.getLogger(__name__)

HOLDER, OPEN = "mlflow_run_id", "mlflow_open_run"
"""Files in an adapter's folder: the run that holds its upload; the run of a training that has not ended."""

BATCH_SECONDS = 5.0
LEADER_SECONDS = 300.0
"""How long the leading process may take to upload an adapter."""

REPEATED = ("mlflow.user", "mlflow.source.name", "mlflow.source.type", "mlflow.source.git.commit")
"""Tags of the parent that a child repeats: MLflow's list shows them in columns of their own."""

STAGES = {"stage1": "stage 1", "stage2": "stage 2"}
MODEL = "model_id"
"""The tag of an adapter's run that names its logged model."""


class TrackedAdapter(Tracked):
    """The run of one adapter.

    Args:
        client: None tracks nothing.
        run_id: An open run.
        known: Steps that its curve has already.
        pause: Seconds between two batches of the curve; the first goes at once.
        begin: Opens a run if it trains after all, where an earlier run holds the adapter.
    """

    def __init__(
        self,
        client: MlflowClient | None,
        run_id: str = "",
        known: Iterable[int] = (),
        pause: float = BATCH_SECONDS,
        begin: "Callable[[], TrackedAdapter] | None" = None,
    ) -> None:
        super().__init__(client, run_id)
        self._curve = Curve(self, set(known), pause)
        self._begin = begin

    def log(self, records: list[dict[str, float]]) -> None:
        """Take log lines; they reach the store in batches, while training runs, and each step once."""
        if self._begin is not None:
            begin, self._begin = self._begin, None
            try:
                begun = begin()
                self.client, self.run_id = begun.client, begun.run_id
            except (MlflowException, OSError) as error:
                say_untracked("an adapter that is trained again", error)
        if self.client is not None:
            self._curve.add([_grouped(record) for record in records])

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
        if manifest.reused and self.client is not None:
            self.log(pd.read_csv(manifest.losses).to_dict("records"))
        held = self.client is None or (home.exists() and active(self.client, home.read_text()))
        if not held and self._uploaded(manifest) and manifest.losses and self.artifact(manifest.losses):
            write_atomic(home, lambda p: p.write_text(self.run_id))
        (folder / OPEN).unlink(missing_ok=True)
        holder = home.read_text() if home.exists() else ""
        self.tags({"adapter_key": manifest.key, "adapter_run_id": holder, "reused": manifest.reused})
        outcome = {
            "train/final_loss": manifest.final_loss,
            "train/held_out_loss": manifest.held_out_loss,
            TRAINING: manifest.seconds,
        }
        super().log([{name: value for name, value in outcome.items() if value is not None}])
        return manifest.model_copy(update={"run_id": holder})

    def _uploaded(self, manifest: AdapterManifest) -> bool:
        """Whether the adapter is a logged model of this run now."""
        if self.client is None:
            return False
        with self._tolerant(manifest.path.name) as arrived:
            arrived.append(log_adapter(self.client, self.run_id, manifest))
            self.tags({MODEL: arrived[0]})
        return bool(arrived)


def _grouped(record: Mapping[str, float]) -> dict[str, float]:
    """A line of the training's log under names that MLflow shows in groups: speed, time, and the rest, the losses."""
    return {name if name == "step" else f"{_group(name)}/{name}": value for name, value in record.items()}


def _group(name: str) -> str:
    if name.endswith("_per_second") or name in ("share_of_peak", "peak_memory_gb"):
        return "speed"
    return "time" if name == "seconds" else "train"


def say_untracked(name: str, error: Exception) -> None:
    """The server went away after the run was opened: the work goes on."""
    log.warning("%s is not tracked, as MLflow does not answer: %s", name, redact(str(error)))


def _await(file: Path) -> None:
    """Wait for what the leading process writes; all of them save the same manifest."""
    end = time.monotonic() + LEADER_SECONDS
    while not file.exists() and time.monotonic() < end:
        time.sleep(0.2)


def active(client: MlflowClient, run_id: str) -> Run | None:
    """The run, unless it is of another store or was deleted."""
    try:
        run = client.get_run(run_id)
    except MlflowException:
        return None
    return run if run.info.lifecycle_stage == "active" else None


def new_child(client: MlflowClient, parent: Run, name: str, tags: Mapping[str, str], seconds: float = 0.0) -> str:
    """Open a child that began `seconds` ago; its id."""
    said = {k: v for k, v in parent.data.tags.items() if k in REPEATED}
    said |= {k: redact(v) for k, v in tags.items()} | {"mlflow.parentRunId": parent.info.run_id}
    begun = int(1000 * (time.time() - seconds))
    run = client.create_run(parent.info.experiment_id, start_time=begun, run_name=name, tags=said)
    return str(run.info.run_id)


def _settings(row: BaseModel) -> dict[str, Any]:
    """What of the row counts, and its objective in words: a column to compare by."""
    settings = row.model_dump(mode="json", exclude_none=True)
    if isinstance(row, AdapterParams):
        settings["attention"] = row.attention.counting()
        words = " + ".join(k if v == 1 else f"{v:g} {k}" for k, v in row.objective.items())
        del settings["degradation"]
        if row.degrades:
            settings["degradation"] = row.degradation.counting()
    else:
        words = "velocity" if isinstance(row, Stage1Params) else ""
    if settings.get("sigma_sampling") == "uniform_shifted":
        settings = {k: v for k, v in settings.items() if not k.startswith("logit_")}
    return settings | ({"objective_name": words} if words else {})


@contextlib.contextmanager
def ending(run: Tracked) -> Iterator[None]:
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
        client = found[0]

        def begin() -> TrackedAdapter:
            begun = _interrupted(client, folder, row) or _fresh(client, name, stage, row, checks)
            if folder is not None:
                write_atomic(folder / OPEN, lambda p: p.write_text(begun.run_id))
            return begun

        try:
            run = TrackedAdapter(None, begin=begin) if _is_held(client, folder) else begin()
        except (MlflowException, OSError) as error:
            say_untracked(name, error)
    with ending(run):
        yield run


def _is_held(client: MlflowClient, folder: Path | None) -> bool:
    """Whether a run of this store trained what lies in the folder: another run of the same would say nothing new."""
    if folder is None or not (folder / HOLDER).exists() or (folder / OPEN).exists():
        return False
    return active(client, (folder / HOLDER).read_text()) is not None


def _fresh(client: MlflowClient, name: str, stage: str, row: BaseModel, checks: pd.DataFrame | None) -> TrackedAdapter:
    tags = {"kind": "adapter", "stage": stage, ROW: name}
    parent = client.get_run(os.environ[PARENT])
    run = TrackedAdapter(client, new_child(client, parent, f"{STAGES.get(stage, stage)} · {name}", tags))
    run.params(_settings(row))
    if checks is not None:
        named = [column for column in checks.columns if column.startswith("mse")]
        for check in checks.itertuples():
            Tracked.log(run, [{f"check/{check.kind}/{name}": getattr(check, name) for name in named}])
    return run


def _interrupted(client: MlflowClient, folder: Path | None, row: BaseModel) -> TrackedAdapter | None:
    """The run of a training that was interrupted in this folder, open again; None if there is none."""
    if folder is None or not (folder / OPEN).exists():
        return None
    found = active(client, (folder / OPEN).read_text())
    if found is None or found.info.status == "FINISHED":
        return None
    run_id, tags = found.info.run_id, found.data.tags
    steps = {m.step for m in client.get_metric_history(run_id, "train/loss")}
    run = TrackedAdapter(client, run_id, steps)
    client.update_run(run_id, status="RUNNING")
    began = tags.get("began_in") or tags["mlflow.parentRunId"]
    run.tags({"mlflow.parentRunId": os.environ[PARENT], "began_in": began, "resumed_after_step": max(steps, default=0)})
    # Parameters of a run cannot be changed; what changed does not determine the adapter, such as `log_every`.
    now = {k: v[:LONGEST_PARAM] for k, v in flatten(_settings(row)).items()}
    run.tags({f"on_resuming.{k}": v for k, v in now.items() if found.data.params.get(k, v) != v})
    return run
