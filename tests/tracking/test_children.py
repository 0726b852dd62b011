"""Adapters and arms: parameters, curves in batches, uploads, and what an arm can be compared by."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from vibe_pipeline.experiment.adapters import AdapterParams
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.training import LoraParams, Stage1Params
from vibe_pipeline.runtime.deadline import OutOfTimeError
from vibe_pipeline.tracking import (
    Tracked,
    TrackedAdapter,
    flatten,
    model_of,
    parent_run,
    tracked_adapter,
    tracked_arm,
)
from vibe_pipeline.tracking import arms as arms_room
from vibe_pipeline.tracking import children as children_room
from vibe_pipeline.tracking import runs as runs_room

RECORD = {"loss": 1.0, "images_per_second": 3.0, "share_of_peak": 0.4, "peak_memory_gb": 2.0, "seconds": 5.0}
GROUPED = {
    "train/loss": 1.0,
    "speed/images_per_second": 3.0,
    "speed/share_of_peak": 0.4,
    "speed/peak_memory_gb": 2.0,
    "time/seconds": 5.0,
}


def steps(client: MlflowClient, run_id: str, metric: str = "train/loss") -> list[int]:
    return [m.step for m in client.get_metric_history(run_id, metric)]


def require_model(client: MlflowClient, run_id: str) -> None:
    """The run has the adapter as its logged model, which the registry takes."""
    run = client.get_run(run_id)
    (output,) = run.outputs.model_outputs
    model = client.get_logged_model(output.model_id)
    assert (model.name, model.status, model.model_type) == ("full", "READY", "LoRA")
    assert run.data.tags["model_id"] == model.model_id
    files = {a.path for a in client.list_logged_model_artifacts(model.model_id)}
    assert files == {"MLmodel", "weights.safetensors"}


def test_an_adapters_run_has_parameters_curve_checks_and_the_adapter(parent, children, manifest, tmp_path) -> None:
    client, parent_id = parent
    checks = pd.DataFrame({"kind": ["latent", "pixel"], "mse_degraded": [0.5, 0.1], "mse_between": [0.4, 0.0]})
    row = Stage1Params(lora=LoraParams(rank=4))
    with tracked_adapter("full", "stage2", row, checks) as run:
        run.log([{"step": s, "loss": 1 / s, "bad": float("nan")} for s in range(1, 6)])
        finished = run.finish(manifest(tmp_path))
    (child,) = children(parent_id)
    assert (child.info.run_name, child.data.tags["row"]) == ("stage 2 · full", "full")
    assert child.info.status == "FINISHED"
    assert child.data.params["lora.rank"] == "4"
    assert child.data.metrics["check/latent/mse_degraded"] == 0.5
    assert child.data.metrics["check/pixel/mse_degraded"] == 0.1
    assert child.data.metrics["train/held_out_loss"] == 1.5
    assert child.data.metrics["time/training_seconds"] == 7.0
    assert "train/bad" not in child.data.metrics
    assert steps(client, child.info.run_id) == [1, 2, 3, 4, 5]
    assert finished.run_id == child.info.run_id == child.data.tags["adapter_run_id"]
    assert {a.path for a in client.list_artifacts(child.info.run_id)} == {"losses.csv"}
    require_model(client, child.info.run_id)
    # A second run finds it trained: it points at the first run's upload, and shows the same curve.
    with tracked_adapter("full", "stage2", row) as run:
        run.finish(manifest(tmp_path, reused=True))
    again = next(c for c in children(parent_id) if c.info.run_id != child.info.run_id)
    assert again.data.tags["adapter_run_id"] == child.info.run_id
    assert again.data.tags["reused"] == "True"
    assert [m.value for m in client.get_metric_history(again.info.run_id, "train/loss")] == [2.0, 1.0]
    assert not client.list_artifacts(again.info.run_id)
    # Where the upload is not to be had any more, as in a new store, it is made again.
    client.delete_run(child.info.run_id)
    with tracked_adapter("full", "stage2", row) as run:
        assert run.finish(manifest(tmp_path, reused=True)).run_id == run.run_id
    require_model(client, run.run_id)


def test_a_curve_is_there_while_training_runs(parent) -> None:
    client, _ = parent
    with tracked_adapter("full", "stage1", Stage1Params()) as run:
        training = TrackedAdapter(client, run.run_id, pause=0)
        training.log([{"step": 1} | RECORD])
        assert steps(client, run.run_id) == [1]
        training.log([{"step": 2} | RECORD, {"step": 3} | RECORD])
        assert steps(client, run.run_id) == [1, 2, 3]
        found = client.get_run(run.run_id)
        assert found.info.status == "RUNNING"
        assert found.data.metrics == GROUPED


def test_lines_that_come_fast_go_together_and_the_last_at_the_end(parent) -> None:
    client, _ = parent
    with tracked_adapter("full", "stage1", Stage1Params()) as run:
        for step in range(1, 8):
            run.log([{"step": step, "loss": 1.0}])
        assert steps(client, run.run_id) == [1]
    assert steps(client, run.run_id) == [1, 2, 3, 4, 5, 6, 7]


class Counting:
    """A client that only counts, and fails while it is told to."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.down = False

    def log_batch(self, run_id: str, metrics: tuple = (), params: tuple = (), tags: tuple = ()) -> None:
        if self.down:
            raise MlflowException("gone")
        self.sizes.append(len(metrics) + len(params) + len(tags))


def test_metrics_go_in_few_calls() -> None:
    client = Counting()
    run = Tracked(client, "id")
    run.log([{"step": i, "loss": 1.0, "part": 2.0} for i in range(1250)])
    assert client.sizes == [1000, 1000, 500]
    client.sizes.clear()
    run.params({f"p{i}": i for i in range(130)})
    assert client.sizes == [100, 30]


def test_a_server_that_is_away_for_a_while_stops_no_training(caplog: pytest.LogCaptureFixture) -> None:
    client = Counting()
    run = TrackedAdapter(client, "id", pause=0)
    run.log([{"step": 1, "loss": 1.0}])
    client.down = True
    run.log([{"step": 2, "loss": 1.0}])
    run.log([{"step": 3, "loss": 1.0}])
    assert "2 lines of the curve wait for the tracking server: gone" in caplog.text
    client.down = False
    run.log([{"step": 4, "loss": 1.0}])
    assert client.sizes == [1, 3]


def adapter_and_arm(manifest, folder: Path) -> tuple[str, str]:
    weights = {"velocity": 0.25, "hfato": 1.0}
    row = AdapterParams(label="Full", objective=weights, steps=150, seed=3)
    with tracked_adapter("full", "stage2", row) as run:
        trained = run.finish(manifest(folder))
    tags = {"adapter": "full", "adapter_run_id": trained.run_id}
    with tracked_arm("keep", ArmParams(label="Kept", adapter="full", steps=6), tags) as arm:
        arm.log([{"flicker": 0.1, "flicker.ci_low": 0.05}])
    return trained.run_id, arm.run_id


def test_arms_can_be_compared_by_what_they_were_trained_with(parent, manifest, tmp_path: Path) -> None:
    client, _ = parent
    _, arm = adapter_and_arm(manifest, tmp_path)
    found = client.get_run(arm).data
    wanted = {
        "steps": "6",
        "attention.kind": "full",
        "training.objective_name": "0.25 velocity + hfato",
        "training.objective.velocity": "0.25",
        "training.objective.hfato": "1.0",
        "training.degradation.kind": "latent",
        "training.attention.kind": "gclf",
        "training.steps": "150",
        "training.seed": "3",
        "model.target.height": "128",
    }
    assert {k: found.params.get(k) for k in wanted} == wanted
    assert found.metrics == {"flicker": 0.1, "flicker.ci_low": 0.05}


def test_an_arms_adapter_is_found_by_its_tag(parent, manifest, tmp_path: Path) -> None:
    client, _ = parent
    adapter, arm = adapter_and_arm(manifest, tmp_path)
    named = client.get_run(arm).data.tags["adapter_run_id"]
    assert named == adapter
    model = model_of(named)
    place = Path(client.get_logged_model(model).artifact_location.removeprefix("file://"))
    assert (place / "weights.safetensors").read_bytes() == b"weights"


def test_an_arm_whose_adapter_is_in_another_store_has_its_own_settings(parent) -> None:
    client, _ = parent
    with tracked_arm("a", ArmParams(label="A"), {"adapter": "x", "adapter_run_id": "0" * 32}) as run:
        pass
    assert not [k for k in client.get_run(run.run_id).data.params if k.startswith("training.")]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError, "FAILED"),
        (KeyboardInterrupt, "KILLED"),
        (OutOfTimeError, "KILLED"),
        (SystemExit, "FAILED"),
        (None, "FINISHED"),
    ],
)
def test_a_child_ends_as_its_work_did(parent, children, error: type[BaseException] | None, status: str) -> None:
    _, parent_id = parent

    def work() -> None:
        with tracked_arm("full", Stage1Params(), {"adapter": "full"}):
            if error is not None:
                raise error("stop")

    if error is None:
        work()
    else:
        with pytest.raises(error, match="stop"):
            work()
    (child,) = children(parent_id)
    assert child.info.status == status
    assert (child.data.tags["kind"], child.data.tags["adapter"]) == ("arm", "full")


def test_what_an_earlier_run_trained_adds_no_run(client, start, children, manifest, tmp_path: Path) -> None:
    start()
    with tracked_adapter("full", "stage2", AdapterParams(label="Full"), folder=tmp_path) as run:
        first = run.finish(manifest(tmp_path))
    second = start()
    with tracked_adapter("full", "stage2", AdapterParams(label="Full"), folder=tmp_path) as run:
        again = run.finish(manifest(tmp_path, reused=True))
    assert children(second) == [] and again.run_id == first.run_id
    # Its files were damaged, and it trains after all: that is a run.
    with tracked_adapter("full", "stage2", AdapterParams(label="Full"), folder=tmp_path) as run:
        run.log([{"step": 1, "loss": 1.0}])
    (child,) = children(second)
    assert child.info.status == "FINISHED" and steps(client, child.info.run_id) == [1]


def test_an_adapter_has_no_settings_of_what_it_does_not_do(parent, children) -> None:
    _, parent_id = parent
    rows = {
        "velocity": AdapterParams(label="A", objective={"velocity": 1.0}),
        "pixel": AdapterParams(label="A", degradation={"kind": "pixel"}),
        "latent": AdapterParams(label="A", sigma_sampling="logit_normal"),
        "noise": AdapterParams(label="A", degradation={"kind": "noise", "probability": 0.5}),
        "blur": AdapterParams(label="A", degradation={"kind": "blur"}),
    }
    for name, row in rows.items():
        with tracked_adapter(name, "stage2", row):
            pass
    params = {run.data.tags["row"]: run.data.params for run in children(parent_id)}
    degradation = {name: {k for k in found if k.startswith("degradation")} for name, found in params.items()}
    assert degradation == {
        "velocity": set(),
        "pixel": {"degradation.kind"},
        "latent": {"degradation.kind", "degradation.factor", "degradation.mode"},
        "noise": {"degradation.kind", "degradation.std", "degradation.probability"},
        "blur": {"degradation.kind", "degradation.kernel", "degradation.sigma"},
    }
    assert "logit_mean" in params["latent"] and "logit_mean" not in params["pixel"]
    assert "None" not in params["pixel"].values()


def test_without_a_parent_nothing_is_tracked(manifest, tmp_path: Path) -> None:
    with tracked_adapter("full", "stage1", Stage1Params(), folder=tmp_path) as run:
        run.log([{"step": 1, "loss": 1.0}])
        run.artifact(tmp_path / "not there")
        assert run.finish(manifest(tmp_path)).run_id == ""
    with tracked_arm("arm", ArmParams(label="A"), {"adapter": "none"}) as arm:
        arm.log([{"flicker": 1.0}])
    assert parent_run().client is None
    assert {p.name for p in tmp_path.iterdir()} == {"weights.safetensors", "losses.csv"}


def test_nested_parameters_get_dotted_names() -> None:
    nested: dict[str, Any] = {"a": {"b": {"c": 1}, "d": None}, "e": [1, 2]}
    assert flatten(nested) == {"a.b.c": "1", "a.d": "None", "e": "[1, 2]"}


class Gone:
    """A client of a server that went away after the parent run was opened: whatever is asked of it fails."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __getattr__(self, name: str) -> Callable[..., None]:
        def fails(*args: object, **kwargs: object) -> None:
            raise self.error

        return fails


@pytest.mark.parametrize("error", [MlflowException("gone"), ConnectionError("gone")])
def test_a_server_that_is_gone_in_mid_run_stops_neither_training_nor_arms_nor_report(
    parent, manifest, tmp_path: Path, caplog, monkeypatch, error: Exception
) -> None:
    """The results are on disk; each thing that is not tracked is said; the adapter is uploaded by the next run."""
    row, clip = Stage1Params(), tmp_path / "clip.mp4"
    clip.write_bytes(b"clip")
    with monkeypatch.context() as patch:
        for room in (children_room, arms_room):
            patch.setattr(room, "connected", lambda: (Gone(error), "parent"))
        patch.setattr(runs_room, "connected", lambda: (Gone(error), "parent"))
        with tracked_adapter("full", "stage1", row, folder=tmp_path / "a") as run:
            run.log([{"step": 1, "loss": 1.0}])
            assert run.finish(manifest(tmp_path / "a")).run_id == ""
        with tracked_arm("full", ArmParams(label="A"), {"adapter": "none"}) as arm:
            arm.log([{"flicker": 0.5}])
        runs_room.parent_run().artifact(clip, "report")
        runs_room.log_node_seconds("generate", 1.0)
    for words in (
        "full is not tracked, as MLflow does not answer: gone",
        "goes without clip.mp4: gone",
        "metrics: gone",
    ):
        assert words in caplog.text
    with tracked_adapter("full", "stage1", row, folder=tmp_path / "a") as run:
        assert run.finish(manifest(tmp_path / "a", reused=True)).run_id == run.run_id


def test_a_server_that_goes_while_a_training_ends_leaves_the_upload_to_the_next_run(
    parent, manifest, tmp_path: Path, monkeypatch
) -> None:
    folder = tmp_path / "a"
    with monkeypatch.context() as patch, tracked_adapter("full", "stage1", Stage1Params(), folder=folder) as run:
        patch.setattr(run, "client", Gone(MlflowException("gone")))
        assert run.finish(manifest(folder)).run_id == ""
    assert not (folder / children_room.HOLDER).exists()
    with tracked_adapter("full", "stage1", Stage1Params(), folder=folder) as run:
        assert run.finish(manifest(folder, reused=True)).run_id == run.run_id
