"""The parent run: one per `kedro run`, opened before anything expensive and closed as the run ended."""

import getpass
import logging
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import psutil
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from vibe_pipeline.experiment.run import TrackingParams
from vibe_pipeline.experiment.sweep_names import short_fields
from vibe_pipeline.io.errors import one_line
from vibe_pipeline.io.keys import content_key
from vibe_pipeline.io.redact import redact
from vibe_pipeline.tracking.costs import cost_metrics
from vibe_pipeline.tracking.runs import PARENT, URI, Tracked, flatten
from vibe_pipeline.tracking.store import opened

log = logging.getLogger(__name__)

CHANGED = "changed"
"""The tag that holds what the command line changed, as the run's name says it."""

KIND = ("mlflow.experimentKind", "custom_model_development")
"""What makes MLflow open the experiment at its list of runs, and not at traces of language models."""

BESIDE = ("tracking.", "run.", "folders.", "report.")
"""Groups that change where and how a run works, and nothing that it makes."""

APART = ("adapters", "arms", "stage1", "tracking", "claims", "published", "folders", "not_run")

NAMED = 3

PARTS = {
    "node_names": "", "namespaces": "", "tags": "tag ", "from_nodes": "from ", "from_inputs": "from ",
    "to_nodes": "to ", "to_outputs": "to ",
}  # fmt: skip
"""Options of `kedro run` that choose a part of its nodes, by Kedro's name, and how the run's name says them."""


def changes(given: Mapping[str, Any]) -> str:
    """What the command line's `--params` change of the experiment: `native_source=truth`; '' if nothing.

    Args:
        given: Parameters as they were given, nested or with dotted names.
    """
    found = {name: value for name, value in flatten(given).items() if not name.startswith(BESIDE)}
    short = short_fields(found)
    return _first_few([f"{short[name]}={redact(value)[:40]}" for name, value in found.items()])


def part_of(run_params: Mapping[str, Any]) -> str:
    """Which part of its pipelines a `kedro run` was asked for, in the command's words; '' if all."""
    said = [said + str(name) for option, said in PARTS.items() for name in run_params.get(option) or ()]
    return _first_few(said)


def run_name(env: str, names: str, part: str, changed: str) -> str:
    """What a run is called: environment, pipelines if not all, which part of them, what the command line changed."""
    return " · ".join(filter(None, [env, "" if names == "__default__" else names, part, changed]))


def _first_few(said: Sequence[str]) -> str:
    return ", ".join([*said[:NAMED], *([f"and {len(said) - NAMED} more"] if len(said) > NAMED else [])])


def run_tags(params: Mapping[str, Any], project: Path, changed: str) -> dict[str, str]:
    """Tags of a run: the commit, a hash of all that changes what it makes, what was changed, which arms are not run."""
    # Neither where a run lies or is tracked nor how long it may take changes what it makes.
    making = {name: group for name, group in _written(params).items() if name not in ("tracking", "run", "folders")}
    tags = {"git_commit": git_commit(project), "config_hash": content_key(making)}
    not_run = {f"not_run.{name}": row["reason"] for name, row in params["not_run"].items()}
    return tags | ({CHANGED: changed} if changed else {}) | not_run


def run_parameters(params: Mapping[str, Any]) -> dict[str, Any]:
    """Groups that a run lists as its own parameters: rows have runs of their own, claims and folders pages."""
    return {name: group for name, group in _written(params).items() if name not in APART}


def _written(params: Mapping[str, Any]) -> dict[str, Any]:
    """Without anchors of YAML, which repeat what the rows that name them say."""
    return {name: group for name, group in params.items() if not name.startswith("_")}


def _origin(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags that MLflow's list shows in columns of their own: who ran what, from which commit."""
    commit = tags.get("git_commit", "unknown").removesuffix("+changes")
    command = [Path(sys.argv[0]).name, *sys.argv[1:]]
    # Of a source MLflow shows what stands behind the last slash, which may be one of an option's.
    source = " ".join(command[:2]).rpartition("/")[2]
    found = {"mlflow.source.name": source, "mlflow.source.type": "LOCAL", "mlflow.user": _user()}
    found["command"] = shlex.join(command)
    return found | ({} if commit == "unknown" else {"mlflow.source.git.commit": commit})


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return str(os.getuid())


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
        ConnectionError: The store cannot be used; names its address, without its password, the reason and the way out.
        ValueError: The experiment was deleted; says how to bring it back.
    """
    with opened(tracking, project) as (client, uri):
        experiment = _experiment(client, tracking.experiment, uri, project)
        client.set_experiment_tag(experiment, *KIND)
        _close_the_dead(client, experiment, project)
        before = _unfinished_before(client, experiment, tags.get("config_hash", ""))
        ours = {"kind": "run", "process": _process(os.getpid()), "project": str(project)}
        resumes = {"resumes": before.info.run_id} if before else {}
        masked = {k: redact(v) for k, v in (_origin(tags) | dict(tags) | ours | resumes).items()}
        run = client.create_run(experiment, run_name=name, tags=masked)
        _try_artifacts(client, run, params)
    os.environ[PARENT], os.environ[URI] = run.info.run_id, uri
    Tracked(client, run.info.run_id).params(params)
    return run.info.run_id


def _try_artifacts(client: MlflowClient, run: Run, params: Mapping[str, Any]) -> None:
    """Upload the settings: a place that takes no artefacts would be found out by the first adapter, hours later."""
    try:
        client.log_text(run.info.run_id, redact(yaml.safe_dump(params, allow_unicode=True)), "parameters.yml")
    except Exception as error:  # of whatever library keeps them: files, S3, the server
        client.set_terminated(run.info.run_id, "FAILED")
        place = redact(run.info.artifact_uri)
        raise ConnectionError(
            f"the tracking store takes runs but not their artefacts, at {place}: {type(error).__name__}: "
            f"{redact(one_line(error, 200))}; check the rights there or the server's --artifacts-destination"
        ) from None


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
        log.warning("the MLflow run %s could not be closed as %s: %s", run_id, status, redact(str(error)))


def _experiment(client: MlflowClient, name: str, uri: str, project: Path) -> str:
    """The id of the experiment, which is made if it is not there.

    Raises:
        ValueError: It was deleted, or MLflow takes no such name; says how to bring it back.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        artifacts = (project / "mlartifacts").as_uri() if urlparse(uri).scheme.startswith("sqlite") else None
        try:
            return client.create_experiment(name, artifacts)
        except MlflowException as error:
            found = client.get_experiment_by_name(name)  # a shard that started at the same time may have made it
            if found is None and error.error_code == "INVALID_PARAMETER_VALUE":
                raise ValueError(f"tracking.experiment {name!r} cannot be used: {one_line(error)}") from None
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        restore = f"MLFLOW_TRACKING_URI={shlex.quote(redact(uri))} mlflow experiments restore -x {found.experiment_id}"
        raise ValueError(
            f"tracking.experiment {name!r} was deleted; bring it back with `{restore}`, or choose another with "
            "--params=tracking.experiment=NAME"
        )
    return found.experiment_id


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
