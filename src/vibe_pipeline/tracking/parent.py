"""The parent run: one per `kedro run`, opened before anything expensive and closed as the run ended."""

import logging
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import psutil
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from vibe_pipeline.config import TrackingParams
from vibe_pipeline.masking import mask, take_credentials
from vibe_pipeline.tracking.costs import cost_metrics
from vibe_pipeline.tracking.runs import PARENT, URI, Tracked

log = logging.getLogger(__name__)

RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"


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

    Runs of this project whose process is gone are closed first. If the newest run of the same `config_hash` did
    not finish, the tag `resumes` names it.

    Raises:
        ConnectionError: The server does not answer; names its address, without its password.
    """
    uri = take_credentials(_absolute(tracking.uri, project))
    try:
        with _few_retries():
            client = MlflowClient(uri)
            experiment = _experiment(client, tracking.experiment, uri, project)
            _close_the_dead(client, experiment, project)
            before = _unfinished_before(client, experiment, tags.get("config_hash", ""))
            ours = {"kind": "run", "process": _process(os.getpid()), "project": str(project)}
            resumes = {"resumes": before.info.run_id} if before else {}
            masked = {k: mask(v) for k, v in (dict(tags) | ours | resumes).items()}
            run = client.create_run(experiment, run_name=name, tags=masked)
    except MlflowException as error:
        # Without its cause: the traceback would show the address whole.
        raise ConnectionError(f"tracking.uri {mask(tracking.uri)!r} cannot be used: {mask(str(error))}") from None
    os.environ[PARENT], os.environ[URI] = run.info.run_id, uri
    Tracked(client, run.info.run_id).params(params)
    return run.info.run_id


def end_parent(status: str, stages: Mapping[str, str] | None = None) -> None:
    """Close the run of a `kedro run` as FINISHED, FAILED or KILLED; one that is closed already stays as it is.

    Children that are still open belonged to a process that died: they are closed as KILLED. A server that is down
    by now is a warning: the results are on disk.

    Args:
        status: How the run ended.
        stages: The pipeline of every node, for the wall time of each.
    """
    if PARENT not in os.environ:
        return
    run_id = os.environ.pop(PARENT)
    try:
        client = MlflowClient(os.environ[URI])
        children = _children(client, run_id)
        for child in children:
            if child.info.status == "RUNNING":
                client.set_terminated(child.info.run_id, "KILLED")
        Tracked(client, run_id).log([cost_metrics(client, run_id, children, stages or {})])
        client.set_terminated(run_id, status)
    except MlflowException as error:
        log.warning("the MLflow run %s could not be closed as %s: %s", run_id, status, mask(str(error)))


@contextmanager
def _few_retries() -> Iterator[None]:
    """A server that is down at the start is told in seconds; later requests keep MLflow's patience."""
    before = os.environ.get(RETRIES)
    os.environ.setdefault(RETRIES, "1")
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(RETRIES, None)


def _absolute(uri: str, project: Path) -> str:
    """A relative sqlite path would follow the current directory."""
    prefix = "sqlite:///"
    if uri.startswith(prefix) and not uri.startswith("sqlite:////"):
        return f"sqlite:///{(project / uri.removeprefix(prefix)).resolve()}"
    return uri


def _experiment(client: MlflowClient, name: str, uri: str, project: Path) -> str:
    found = client.get_experiment_by_name(name)
    artifacts = (project / "mlartifacts").as_uri() if urlparse(uri).scheme == "sqlite" else None
    return found.experiment_id if found else client.create_experiment(name, artifacts)


def _process(pid: int) -> str:
    """Machine, number and start of a process: numbers alone are given again."""
    return f"{platform.node()}/{pid}/{psutil.Process(pid).create_time():.0f}"


def _alive(process: str) -> bool:
    machine, pid, _ = process.rsplit("/", 2)
    if machine != platform.node():
        return True  # cannot be told from here
    try:
        return _process(int(pid)) == process
    except psutil.NoSuchProcess:
        return False


def _children(client: MlflowClient, run_id: str) -> list[Run]:
    experiment = client.get_run(run_id).info.experiment_id
    return list(client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run_id}'"))


def _close_the_dead(client: MlflowClient, experiment: str, project: Path) -> None:
    """A process that was killed outright could not close its run."""
    for run in client.search_runs([experiment], "tags.kind = 'run' and attributes.status = 'RUNNING'"):
        process = run.data.tags.get("process")
        if process is None or run.data.tags.get("project") != str(project) or _alive(process):
            continue
        for found in [*_children(client, run.info.run_id), run]:
            if found.info.status == "RUNNING":
                client.set_terminated(found.info.run_id, "KILLED")


def _unfinished_before(client: MlflowClient, experiment: str, config_hash: str) -> Run | None:
    """The newest run of the same settings, if it ended before its time."""
    query = f"tags.kind = 'run' and tags.config_hash = '{config_hash}'"
    newest = client.search_runs([experiment], query, max_results=1, order_by=["attributes.start_time DESC"])
    return next((r for r in newest if r.info.status in ("FAILED", "KILLED")), None)
