"""MLflow: a parent and its children, loss curves in batches, how runs end, servers that do not answer."""

import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow import MlflowClient

from vibe_pipeline import tracking
from vibe_pipeline.config import LoraParams, Stage1Params, TrackingParams
from vibe_pipeline.tracking import (
    Tracked,
    end_parent,
    flatten,
    git_commit,
    parent_run,
    start_parent,
    tracked_adapter,
    tracked_arm,
)


@pytest.fixture(autouse=True)
def no_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start without a parent, and put the environment back afterwards."""
    for name in (tracking.PARENT, tracking.URI, "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder, whose store is created once: that takes seconds."""
    return tmp_path_factory.mktemp("project")


@pytest.fixture
def parent(project: Path, no_parent: None) -> tuple[MlflowClient, str]:
    """An open parent run."""
    params = {"model": {"path": "x" * 900, "native": {"height": 64}}, "seeds": [0, 1]}
    run_id = start_parent(TrackingParams(), project, "base: all", {"git_commit": "abc"}, params)
    return MlflowClient(f"sqlite:///{project}/mlflow.db"), run_id


def children(client: MlflowClient, parent_id: str) -> list[Any]:
    experiment = client.get_run(parent_id).info.experiment_id
    return client.search_runs([experiment], f"tags.mlflow.parentRunId = '{parent_id}'")


def manifest(folder: Path, reused: bool = False) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.safetensors").write_bytes(b"weights")
    pd.DataFrame({"step": [10, 20], "loss": [2.0, 1.0]}).to_csv(folder / "losses.csv", index=False)
    return {
        "key": "k1",
        "path": str(folder / "weights.safetensors"),
        "losses": str(folder / "losses.csv"),
        "final_loss": 1.0,
        "held_out_loss": 1.5,
        "reused": reused,
    }


def test_a_relative_store_lies_in_the_project_wherever_one_stands(parent, project: Path, monkeypatch) -> None:
    client, run_id = parent
    assert (project / "mlflow.db").exists()
    run = client.get_run(run_id)
    assert run.data.params["model.native.height"] == "64"
    assert run.data.params["seeds"] == "[0, 1]"
    assert len(run.data.params["model.path"]) == tracking.LONGEST_PARAM
    assert run.data.tags["git_commit"] == "abc"
    assert run.info.artifact_uri.startswith((project / "mlartifacts").as_uri())
    assert parent_run().run_id == run_id
    end_parent("FINISHED")
    assert client.get_run(run_id).info.status == "FINISHED"
    assert parent_run().client is None
    end_parent("FAILED")  # with none open, nothing happens
    assert client.get_run(run_id).info.status == "FINISHED"


def test_a_failed_run_is_marked_failed(parent) -> None:
    client, run_id = parent
    end_parent("FAILED")
    assert client.get_run(run_id).info.status == "FAILED"


def test_an_adapters_run_has_parameters_curve_checks_and_the_adapter(parent, tmp_path: Path) -> None:
    client, parent_id = parent
    checks = pd.DataFrame({"kind": ["latent", "pixel"], "mse_degraded": [0.5, 0.1], "mse_between": [0.4, 0.0]})
    row = Stage1Params(lora=LoraParams(rank=4))
    with tracked_adapter("full", "stage2", row, checks) as run:
        run.log([{"step": s, "loss": 1 / s, "bad": float("nan")} for s in range(1, 6)])
        finished = run.finish(manifest(tmp_path))
    (child,) = children(client, parent_id)
    assert child.info.run_name == "full"
    assert child.info.status == "FINISHED"
    assert child.data.params["lora.rank"] == "4"
    assert child.data.metrics["check.latent.mse_degraded"] == 0.5
    assert child.data.metrics["held_out_loss"] == 1.5
    assert "bad" not in child.data.metrics
    assert [m.step for m in client.get_metric_history(child.info.run_id, "loss")] == [1, 2, 3, 4, 5]
    assert finished["run_id"] == child.info.run_id == child.data.tags["adapter_run_id"]
    assert {a.path for a in client.list_artifacts(child.info.run_id)} == {"adapter", "losses.csv"}
    # A second run finds it trained: it points at the first run's upload, and shows the same curve.
    with tracked_adapter("full", "stage2", row) as run:
        run.finish(manifest(tmp_path, reused=True))
    again = next(c for c in children(client, parent_id) if c.info.run_id != child.info.run_id)
    assert again.data.tags["adapter_run_id"] == child.info.run_id
    assert again.data.tags["reused"] == "True"
    assert [m.value for m in client.get_metric_history(again.info.run_id, "loss")] == [2.0, 1.0]
    assert not client.list_artifacts(again.info.run_id)


def test_metrics_go_in_few_calls() -> None:
    class Counting:
        sizes: list[int] = []  # noqa: RUF012

        def log_batch(self, run_id: str, metrics: tuple = (), params: tuple = (), tags: tuple = ()) -> None:
            self.sizes.append(len(metrics) + len(params) + len(tags))

    run = Tracked(Counting(), "id")
    run.log([{"step": i, "loss": 1.0, "part": 2.0} for i in range(1250)])
    assert Counting.sizes == [1000, 1000, 500]
    Counting.sizes.clear()
    run.params({f"p{i}": i for i in range(130)})
    assert Counting.sizes == [100, 30]


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "FAILED"), (None, "FINISHED")],
)
def test_a_child_ends_as_its_work_did(parent, error: type[BaseException] | None, status: str) -> None:
    client, parent_id = parent

    def work() -> None:
        with tracked_arm("full", Stage1Params(), {"adapter": "full"}):
            if error is not None:
                raise error("stop")

    if error is None:
        work()
    else:
        with pytest.raises(error, match="stop"):
            work()
    (child,) = children(client, parent_id)
    assert child.info.status == status
    assert (child.data.tags["kind"], child.data.tags["adapter"]) == ("arm", "full")


def test_without_a_parent_nothing_is_tracked(tmp_path: Path) -> None:
    with tracked_adapter("full", "stage1", Stage1Params()) as run:
        run.log([{"step": 1, "loss": 1.0}])
        run.artifact(tmp_path / "not there")
        assert run.finish(manifest(tmp_path))["run_id"] == ""
    assert not (tmp_path / "mlflow_run_id").exists()


def test_a_server_that_is_down_is_told_at_once(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{probe.getsockname()[1]}"
    begun = time.monotonic()
    with pytest.raises(ConnectionError, match=uri):
        start_parent(TrackingParams(uri=uri), tmp_path, "n", {}, {})
    assert time.monotonic() - begun < 30
    assert tracking.PARENT not in os.environ


def test_nested_parameters_get_dotted_names() -> None:
    assert flatten({"a": {"b": {"c": 1}, "d": None}, "e": [1, 2]}) == {"a.b.c": "1", "a.d": "None", "e": "[1, 2]"}


def test_a_commit_tells_whether_it_was_changed(tmp_path: Path) -> None:
    assert git_commit(tmp_path) == "unknown"

    def git(*command: str) -> None:
        identity = ["-c", "user.name=n", "-c", "user.email=e@e"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *command], check=True, capture_output=True)

    git("init")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "first")
    commit = git_commit(tmp_path)
    assert len(commit) == 40
    (tmp_path / "a").write_text("2")
    assert git_commit(tmp_path) == f"{commit}+changes"
