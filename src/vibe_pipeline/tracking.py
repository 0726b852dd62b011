"""All MLflow calls: one parent run per `kedro run`, one child per adapter and per arm.

MLflow's active run is per thread and Kedro's runners use threads and processes, so run ids are passed
explicitly: the parent's travels to worker processes in the environment. Without a parent (a notebook, a test
of a node) nothing is tracked.
"""

import contextlib
import logging
import math
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from pydantic import BaseModel

from vibe_pipeline.config import TrackingParams

log = logging.getLogger(__name__)

PARENT, URI = "VIBE_MLFLOW_PARENT", "VIBE_MLFLOW_URI"
LONGEST_PARAM = 500


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested parameters as dotted names and strings."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = str(value)
    return flat


def git_commit(folder: Path) -> str:
    """The commit of a checkout, with `+changes` if it has any; `unknown` outside one."""
    try:
        commit, changes = (
            subprocess.run(["git", "-C", str(folder), *c], capture_output=True, text=True, check=True).stdout.strip()
            for c in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+changes" if changes else "")


def start_parent(
    tracking: TrackingParams, project: Path, name: str, tags: Mapping[str, str], params: Mapping[str, Any]
) -> str:
    """Open the run of a `kedro run`; fails at once if the tracking server cannot be reached.

    Raises:
        ConnectionError: The server does not answer; names its address.
    """
    uri = _absolute(tracking.uri, project)
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    try:
        client = MlflowClient(uri)
        found = client.get_experiment_by_name(tracking.experiment)
        artifacts = (project / "mlartifacts").as_uri() if urlparse(uri).scheme == "sqlite" else None
        experiment = found.experiment_id if found else client.create_experiment(tracking.experiment, artifacts)
        run = client.create_run(experiment, run_name=name, tags=dict(tags) | {"kind": "run"})
    except MlflowException as error:
        raise ConnectionError(f"tracking.uri {tracking.uri!r} cannot be used: {error}") from error
    os.environ[PARENT], os.environ[URI] = run.info.run_id, uri
    Tracked(client, run.info.run_id).params(params)
    return run.info.run_id


def end_parent(status: str) -> None:
    """Close the run of a `kedro run` as FINISHED, FAILED or KILLED; a run that is closed already stays as it is."""
    if PARENT in os.environ:
        MlflowClient(os.environ[URI]).set_terminated(os.environ.pop(PARENT), status)


def _absolute(uri: str, project: Path) -> str:
    """A relative sqlite path would follow the current directory."""
    prefix = "sqlite:///"
    if uri.startswith(prefix) and not uri.startswith("sqlite:////"):
        return f"sqlite:///{(project / uri.removeprefix(prefix)).resolve()}"
    return uri


class Tracked:
    """One run; does nothing when there is no client."""

    def __init__(self, client: MlflowClient | None, run_id: str = "") -> None:
        self.client, self.run_id = client, run_id

    def params(self, params: Mapping[str, Any] | BaseModel) -> None:
        """Record parameters, flattened."""
        if self.client is not None:
            values = params.model_dump(mode="json") if isinstance(params, BaseModel) else params
            entries = [Param(k, v[:LONGEST_PARAM]) for k, v in flatten(values).items()]
            for start in range(0, len(entries), 100):
                self.client.log_batch(self.run_id, params=entries[start : start + 100])

    def tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags."""
        if self.client is not None:
            self.client.log_batch(self.run_id, tags=[RunTag(k, str(v)) for k, v in tags.items()])

    def log(self, records: list[dict[str, float]]) -> None:
        """Record metrics in one batch; `step` names the step. Values that are not finite are left out."""
        if self.client is None:
            return
        now = int(1000 * time.time())
        metrics = [
            Metric(k, float(v), now, int(r.get("step", 0)))
            for r in records
            for k, v in r.items()
            if k != "step" and math.isfinite(v)
        ]
        for start in range(0, len(metrics), 1000):
            self.client.log_batch(self.run_id, metrics=metrics[start : start + 1000])

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Upload a file."""
        if self.client is not None:
            self.client.log_artifact(self.run_id, str(path), folder)


class TrackedAdapter(Tracked):
    """The run of one adapter."""

    def finish(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """Record the outcome; the adapter is uploaded once, by the run that trained it.

        Returns:
            The manifest, with the id of the run that holds the artifact.
        """
        home = Path(manifest["path"]).parent / "mlflow_run_id"
        if manifest["reused"]:
            self.log(pd.read_csv(manifest["losses"]).to_dict("records"))
        if self.client is not None and not (manifest["reused"] and home.exists()):
            self.artifact(Path(manifest["path"]), "adapter")
            self.artifact(Path(manifest["losses"]))
            home.write_text(self.run_id)
        holder = home.read_text() if home.exists() else ""
        self.tags({"adapter_key": manifest["key"], "adapter_run_id": holder, "reused": manifest["reused"]})
        self.log([{"final_loss": manifest["final_loss"], "held_out_loss": manifest["held_out_loss"]}])
        return manifest | {"run_id": holder}


@contextlib.contextmanager
def _child(name: str, tags: Mapping[str, str]) -> Iterator[tuple[MlflowClient | None, str]]:
    if PARENT not in os.environ:
        yield None, ""
        return
    client, parent = MlflowClient(os.environ[URI]), os.environ[PARENT]
    experiment = client.get_run(parent).info.experiment_id
    run = client.create_run(experiment, run_name=name, tags=dict(tags) | {"mlflow.parentRunId": parent})
    status = "FAILED"
    try:
        yield client, run.info.run_id
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        client.set_terminated(run.info.run_id, status)


@contextlib.contextmanager
def tracked_adapter(
    name: str, stage: str, row: BaseModel, checks: pd.DataFrame | None = None
) -> Iterator[TrackedAdapter]:
    """The child run of an adapter, with the degradation check that preceded stage 2."""
    with _child(name, {"kind": "adapter", "stage": stage}) as (client, run_id):
        run = TrackedAdapter(client, run_id)
        run.params(row)
        if checks is not None:
            run.log(
                [
                    {f"check.{c.kind}.{k}": getattr(c, k) for k in checks.columns if k.startswith("mse")}
                    for c in checks.itertuples()
                ]
            )
        yield run


@contextlib.contextmanager
def tracked_arm(name: str, row: BaseModel, tags: Mapping[str, str]) -> Iterator[Tracked]:
    """The child run of an arm."""
    with _child(name, {"kind": "arm"} | dict(tags)) as (client, run_id):
        run = Tracked(client, run_id)
        run.params(row)
        yield run


def parent_run() -> Tracked:
    """The run of this `kedro run`, or one that does nothing."""
    return Tracked(MlflowClient(os.environ[URI]), os.environ[PARENT]) if PARENT in os.environ else Tracked(None)
