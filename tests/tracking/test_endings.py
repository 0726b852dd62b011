"""How runs end and go on: failures, kills, interrupted trainings that resume, what a run cost."""

import multiprocessing
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from mlflow import MlflowClient

from vibe_pipeline import tracking
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.training import Stage1Params
from vibe_pipeline.hooks import TrackingHooks
from vibe_pipeline.runtime.deadline import OutOfTimeError
from vibe_pipeline.tracking import (
    end_parent,
    git_commit,
    log_node_seconds,
    parent_run,
    start_monitor,
    tracked_adapter,
    tracked_arm,
)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def in_a_process_that_is_killed(work: Callable[[], None]) -> None:
    """Run `work`, which ends by `die()`, in a process of its own."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def test_a_relative_store_lies_in_the_project_wherever_one_stands(parent, project: Path) -> None:
    client, run_id = parent
    assert (project / "mlflow.db").exists()
    run = client.get_run(run_id)
    assert run.data.params["model.native.height"] == "64"
    assert run.data.params["generation.seeds"] == "[0, 1]"
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


def test_the_child_of_a_process_that_was_killed_is_closed_with_the_run(parent, children) -> None:
    client, parent_id = parent

    def lose() -> None:
        with tracked_arm("lost", ArmParams(label="A"), {"adapter": "none"}):
            die()

    in_a_process_that_is_killed(lose)
    with tracked_arm("done", ArmParams(label="B"), {"adapter": "none"}):
        pass
    assert {c.info.run_name: c.info.status for c in children(parent_id)} == {"lost": "RUNNING", "done": "FINISHED"}
    end_parent("FAILED")
    assert {c.info.run_name: c.info.status for c in children(parent_id)} == {"lost": "KILLED", "done": "FINISHED"}
    assert client.get_run(parent_id).info.status == "FAILED"


def test_a_run_that_was_killed_outright_is_closed_and_resumed_by_the_next(
    client: MlflowClient, start, children
) -> None:
    def run() -> None:
        start(config_hash="killed")
        with tracked_arm("lost", ArmParams(label="A"), {"adapter": "none"}):
            die()

    in_a_process_that_is_killed(run)
    other = start(config_hash="other settings")
    experiment = client.get_run(other).info.experiment_id
    (killed,) = client.search_runs([experiment], "tags.config_hash = 'killed'")
    assert killed.info.status == "KILLED"
    assert [c.info.status for c in children(killed.info.run_id)] == ["KILLED"]
    assert "resumes" not in client.get_run(other).data.tags
    again = start(config_hash="killed")
    assert client.get_run(again).data.tags["resumes"] == killed.info.run_id
    assert client.get_run(other).info.status == "RUNNING"  # its process lives
    end_parent("FINISHED")
    third = start(config_hash="killed")
    assert "resumes" not in client.get_run(third).data.tags


def test_a_resumed_training_goes_on_in_its_own_run(client: MlflowClient, start, children, manifest, tmp_path) -> None:
    def interrupted() -> None:
        with tracked_adapter("full", "stage1", Stage1Params(), folder=tmp_path) as run:
            run.log([{"step": s, "loss": 1 / s} for s in range(1, 6)])
            raise KeyboardInterrupt

    first = start()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    end_parent("KILLED")
    (child,) = children(first)
    assert child.info.status == "KILLED"
    second = start()
    with tracked_adapter("full", "stage1", Stage1Params(log_every=3), folder=tmp_path) as run:
        assert client.get_run(run.run_id).info.status == "RUNNING"
        run.log([{"step": s, "loss": 1 / s} for s in range(1, 4)])  # the checkpoint's
        run.log([{"step": s, "loss": 1 / s} for s in range(4, 9)])
        run.finish(manifest(tmp_path))
    (same,) = children(second)
    assert same.info.run_id == child.info.run_id
    assert same.info.status == "FINISHED"
    assert [m.step for m in client.get_metric_history(same.info.run_id, "train/loss")] == [1, 2, 3, 4, 5, 6, 7, 8]
    tags = same.data.tags
    assert (tags["began_in"], tags["resumed_after_step"], tags["on_resuming.log_every"]) == (first, "5", "3")
    assert not (tmp_path / "mlflow_open_run").exists()
    # Trained now: the next run has nothing to add.
    with tracked_adapter("full", "stage1", Stage1Params(), folder=tmp_path) as run:
        assert run.finish(manifest(tmp_path, reused=True)).run_id == same.info.run_id
    assert len(children(second)) == 1


def test_a_training_that_was_killed_outright_goes_on_in_its_own_run(client, start, children, tmp_path: Path) -> None:
    first = start()

    def train() -> None:
        with tracked_adapter("full", "stage1", Stage1Params(), folder=tmp_path) as run:
            run.log([{"step": 1, "loss": 1.0}])
            die()

    in_a_process_that_is_killed(train)
    (child,) = children(first)
    second = start()
    with tracked_adapter("full", "stage1", Stage1Params(), folder=tmp_path) as run:
        run.log([{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}])
    assert [c.info.run_id for c in children(second)] == [child.info.run_id]
    assert [m.value for m in client.get_metric_history(child.info.run_id, "train/loss")] == [1.0, 0.5]


def test_a_training_begun_in_another_store_gets_a_new_run(parent, children, tmp_path: Path) -> None:
    _, parent_id = parent
    (tmp_path / "mlflow_open_run").write_text("0" * 32)
    with tracked_adapter("full", "stage1", Stage1Params(), folder=tmp_path) as run:
        assert (tmp_path / "mlflow_open_run").read_text() == run.run_id
    assert [c.info.run_id for c in children(parent_id)] == [run.run_id]


def test_a_run_says_what_it_cost(parent, manifest, tmp_path: Path) -> None:
    client, parent_id = parent
    log_node_seconds("adapters.full.train", 30.0)
    log_node_seconds("adapters.other.train", 20.0)
    with tracked_adapter("full", "stage2", Stage1Params()) as run:
        run.finish(manifest(tmp_path))
    with tracked_arm("no_relay", ArmParams(label="A"), {"adapter": "none"}) as arm:
        arm.log([{"time/seconds_per_clip": 4.0}])
    end_parent("FINISHED", {"adapters.full.train": "relay_stage2", "adapters.other.train": "relay_stage2"})
    metrics = client.get_run(parent_id).data.metrics
    assert metrics["time/node/adapters.other.train"] == 20.0
    assert 30.0 <= metrics["time/stage/relay_stage2"] < 50.0  # side by side: less than the sum
    assert metrics["time/training/full"] == 7.0
    assert metrics["time/clip/no_relay"] == 4.0


def test_system_metrics_reach_the_parent_and_stop_with_it(parent) -> None:
    client, run_id = parent
    monitor = start_monitor(seconds=0.05)
    deadline = time.monotonic() + 60
    while not any(k.startswith("system/") for k in client.get_run(run_id).data.metrics):
        assert time.monotonic() < deadline, "no system metrics came"
        time.sleep(0.05)
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= set(
        client.get_run(run_id).data.metrics
    )
    monitor.finish()
    assert "SystemMetricsMonitor" not in {t.name for t in threading.enumerate()}
    end_parent("FINISHED")
    assert start_monitor() is None  # nothing is tracked


def hooks(tmp_path: Path, **settings: object) -> TrackingHooks:
    found = TrackingHooks()
    params = {"model": {"path": "p"}, "tracking": settings, "not_run": {}}
    found.after_context_created(SimpleNamespace(project_path=tmp_path, env=None, config_loader={"parameters": params}))
    return found


@pytest.mark.parametrize(
    ("error", "status"), [(None, "FINISHED"), (ValueError("x"), "FAILED"), (OutOfTimeError("hours"), "KILLED")]
)
def test_the_hooks_close_the_run_and_its_monitor(
    project: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch, error: Exception | None, status: str
) -> None:
    monkeypatch.setattr("vibe_pipeline.hooks.pipelines", {"generation": None})
    run = hooks(project)
    node = SimpleNamespace(name="arms.full.generate", tags={"generation", "gpu_1"})
    run.before_pipeline_run({"pipeline_names": ["generation"]}, SimpleNamespace(nodes=[node]))
    assert "SystemMetricsMonitor" in {t.name for t in threading.enumerate()}
    opened = parent_run().run_id
    run.before_node_run(node)
    run.after_node_run(node)
    if error is None:
        run.after_pipeline_run()
    else:
        run.on_pipeline_error(error)
    found = client.get_run(opened)
    assert found.info.status == status
    assert found.data.tags["pipelines"] == "generation"
    assert {"time/node/arms.full.generate", "time/stage/generation"} <= set(found.data.metrics)
    assert "SystemMetricsMonitor" not in {t.name for t in threading.enumerate()}


def test_the_config_hash_says_what_is_made_not_where_it_is_tracked(project: Path, client: MlflowClient) -> None:
    found = []
    for clips in (1, 2):
        run = hooks(project, clips_per_arm=clips, system_metrics=False)
        run.before_pipeline_run({}, SimpleNamespace(nodes=[]))
        assert "SystemMetricsMonitor" not in {t.name for t in threading.enumerate()}
        found.append(client.get_run(parent_run().run_id).data.tags["config_hash"])
        run.after_pipeline_run()
    assert found[0] == found[1]


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
