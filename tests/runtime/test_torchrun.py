"""`torchrun -m kedro run`: one process locks the project and tracks the run, all of them train one adapter."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from vibe_pipeline.hooks import RunHooks, TrackingHooks
from vibe_pipeline.io.manifests import AdapterManifest
from vibe_pipeline.runtime.torchrun import is_follower
from vibe_pipeline.tracking import children

BENCHMARK = Path(__file__).parents[2] / "benchmarks/faults.py"


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be the second of two processes."""
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)


def test_who_follows(second: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_follower()
    monkeypatch.setenv("RANK", "0")
    assert not is_follower()
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert not is_follower()


def test_a_follower_neither_locks_nor_tracks(second: None, tmp_path: Path) -> None:
    run, tracking = RunHooks(), TrackingHooks()
    run._params = tracking._params = {"generation": {}, "run": {"wait": False}, "folders": {"data": "data"}}
    tracking._project, tracking._env = tmp_path, "base"
    run.before_pipeline_run({"project_path": str(tmp_path)})
    tracking.before_pipeline_run({}, None)
    assert not list(tmp_path.rglob("*"))
    run.after_pipeline_run()
    tracking.after_pipeline_run()


def test_a_follower_takes_the_leaders_run(second: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children.time, "sleep", lambda _: (tmp_path / children.HOLDER).write_text("the leader's"))
    manifest = AdapterManifest(name="a", key="k", path=tmp_path / "a.safetensors")
    assert children.TrackedAdapter(None).finish(manifest).run_id == "the leader's"


def test_two_processes_of_torchrun_train_one_adapter(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("faults_of_torchrun", BENCHMARK)
    faults = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(faults)
    project = faults.make_project(tmp_path / "project", 1, images=16, steps=4)
    environment = os.environ | {"PYTHONPATH": str(project / "src"), "OMP_NUM_THREADS": "1"}

    def run(*command: str) -> None:
        done = subprocess.run([sys.executable, "-m", *command], cwd=project, env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()[-2000:]

    run("kedro", "run", "--pipelines=data_processing")
    run("torch.distributed.run", "--nproc-per-node=2", "-m", "kedro", "run", "--pipelines=relay_stage1")
    client = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    runs = [r for e in client.search_experiments() for r in client.search_runs([e.experiment_id])]
    trained = [r.info.run_id for r in runs if r.data.tags.get("kind") == "adapter"]
    parents = [r.info.status for r in runs if r.data.tags.get("kind") == "run"]
    manifest = json.loads((project / "data/06_models/adapters/modality.json").read_text())
    assert trained == [manifest["run_id"]]
    assert parents == ["FINISHED", "FINISHED"]  # one for each command, not one for each process
