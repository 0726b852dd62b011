"""The notebook runs from top to bottom on a store with one parent, an adapter of the shipped base and an arm."""

import json
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from nbclient import NotebookClient

from vibe_pipeline.diffusion.lora import adapter_state, add_adapter, save_adapter, set_adapter_state
from vibe_pipeline.diffusion.models import find_model, load_transformer
from vibe_pipeline.experiment.adapters import AdapterParams
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.model import ClipSize
from vibe_pipeline.experiment.run import TrackingParams
from vibe_pipeline.io.manifests import AdapterManifest
from vibe_pipeline.io.video import write_preview
from vibe_pipeline.tracking import PARENT, URI, end_parent, start_parent, tracked_adapter, tracked_arm

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "notebooks/explore_runs.ipynb"
SIZE = {"height": 64, "width": 64, "frames": 9}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store as a run on the miniature leaves it, with an adapter whose weights are random."""
    for name in (PARENT, URI):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    target = SIZE | {"height": 128, "width": 128}
    model = {"path": "data/06_models/base", "native": SIZE, "target": target, "text_length": 16, "flow_shift": 3.0}
    start_parent(TrackingParams(uri=uri), tmp_path, "base: all", {}, {"model": model})
    transformer = load_transformer(find_model(str(ROOT / model["path"])), torch.device("cpu"), torch.float32)
    add_adapter(transformer, "full", 4, 4, ("to_q", "to_v"), 0)
    state = {k: torch.full_like(v, 0.1) for k, v in adapter_state(transformer, "full").items()}
    set_adapter_state(transformer, "full", state)
    path = save_adapter(transformer, "full", tmp_path / "adapter")
    (tmp_path / "losses.csv").write_text("step,loss\n1,2.0\n2,1.0\n")
    losses = tmp_path / "losses.csv"
    outcome = AdapterManifest(
        name="full", key="k", path=path, losses=losses, final_loss=1.0, held_out_loss=1.0, reused=True
    )
    with tracked_adapter("full", "stage2", AdapterParams(label="Full")) as run:
        trained = run.finish(outcome)
    row = ArmParams(label="Full", adapter="full", steps=2, strength=0.15)
    clip = write_preview(tmp_path / "0000-0.mp4", np.zeros((9, 128, 128, 3), np.float32), 8.0)
    with tracked_arm("full", row, {"adapter": "full", "adapter_run_id": trained.run_id}) as arm:
        arm.log([{"detail/flicker": 0.2, "time/seconds_per_clip": 1.0}])
        arm.text("metric,status,mean,ci_low,ci_high\nflicker,scored,0.2,0.1,0.3\n", "scores.csv")
        arm.artifact(clip, "clips")
    end_parent("FINISHED")
    assert MlflowClient(uri).get_run(arm.run_id).info.status == "FINISHED"
    return uri


def test_the_notebook_runs(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"VIBE_TRACKING_URI": store, "VIBE_STEPS": "2", "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    shown = {cell.id: json.dumps(cell.outputs) for cell in notebook.cells if cell.cell_type == "code"}
    assert "hfato" in shown["runs"]
    for cell in ("loss", "scores", "shown"):
        assert "image/png" in shown[cell], cell
    assert "data:video/mp4" in shown["clips"]
    change = float(shown["shown"].split("changes a pixel by ")[1].split(" ")[0])
    assert change > 0.001


def test_a_clip_too_large_for_a_processor_is_refused_before_a_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a run of the 5B, where torch sees no GPU; where it sees one, models go there in the run's format."""
    (code,) = (c.source for c in nbformat.read(NOTEBOOK, as_version=4).cells if c.id == "adapter")
    begin, end = code.index("settings = "), code.index("shift = ")
    large = {"height": 1408, "width": 2560, "frames": 121}
    settings = {f"model.{size}.{side}": str(n) for size in ("native", "target") for side, n in large.items()}
    settings |= {"model.path": "nowhere", "model.dtype": "bfloat16", "model.tile": "352"}
    names: dict[str, object] = {"ClipSize": ClipSize, "Path": Path, "project": ROOT, "torch": torch, "find_model": str}
    names["parent"] = SimpleNamespace(data=SimpleNamespace(params=settings))
    with pytest.raises(AssertionError, match="1408x2560, 121 frames, takes days on a CPU: open this notebook where"):
        exec(code[begin:end], names | {"pick_device": lambda _: torch.device("cpu")})
    names["pick_device"] = lambda _: torch.device("cuda")
    exec(code[begin:end], names)
    assert (names["dtype"], names["device"]) == (torch.bfloat16, torch.device("cuda"))


def test_the_notebook_is_kept_without_outputs() -> None:
    cells = [c for c in nbformat.read(NOTEBOOK, as_version=4).cells if c.cell_type == "code"]
    assert cells and not any(c.outputs or c.execution_count for c in cells)
