"""The recipe of what the miniature ships: its pixel network; how modules are trained: test_modules.py."""

from pathlib import Path

import numpy as np
import pytest

from vibe_pipeline.diffusion.super_resolution import load_network
from vibe_pipeline.experiment.folders import Folders
from vibe_pipeline.experiment.miniature import MiniatureParams
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.io.files import read_json
from vibe_pipeline.miniature.pairs import Sizes, draw_pairs
from vibe_pipeline.miniature.pixel_network import enlarge
from vibe_pipeline.pipelines.base_model import create_pipeline, nodes
from vibe_pipeline.training import base_model

SHORT = MiniatureParams(size=24, frames=5, pixel_scenes=6, pixel_steps=4)


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(**{name: tmp_path / name for name in Folders.model_fields if name != "env"})


def test_the_network_is_trained_where_it_is_shipped_from_and_not_twice(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = {"frames": 5, "fps": 8}
    model = ModelParams(path="x", native=size | {"height": 24, "width": 24}, target=size | {"height": 72, "width": 72})
    made = nodes.train_pixel_network(SHORT, model, folders)
    shipped = folders.models / "pixel_network_x3.safetensors"
    assert made["path"] == str(shipped) and (made["scenes"], made["steps"]) == (6, 4) and made["seconds"] > 0
    assert load_network(shipped).scale == 3
    first = shipped.read_bytes()
    shipped.unlink()  # a training that is there is taken, one that is not is made again, and gives the same
    with monkeypatch.context() as patched:
        patched.setattr(base_model, "train_pixel_network", lambda *a: pytest.fail("trained again"))
        assert nodes.train_pixel_network(SHORT, model, folders)["seconds"] == made["seconds"]
    assert shipped.read_bytes() == first
    (folders.base_training / shipped.name).unlink()
    nodes.train_pixel_network(SHORT, model, folders)
    assert shipped.read_bytes() == first


def test_more_steps_infer_more(tmp_path: Path) -> None:
    pairs = draw_pairs(Sizes(native=24, target=72, frames=5, held_out_scenes=8), held_out=True)
    errors = []
    for steps in (2, 120):
        params = SHORT.model_copy(update={"pixel_scenes": 24, "pixel_steps": steps})
        made = base_model.train_restorer(params, 72, tmp_path / str(steps), tmp_path / f"{steps}.safetensors")
        large = enlarge(load_network(Path(made["path"])), pairs.native.astype(np.float32) / 255)
        errors.append(float(np.square(large - pairs.target / 255).mean()))
    assert errors[1] < 0.7 * errors[0]


def test_one_command_trains_base_and_network() -> None:
    assert {node.name for node in create_pipeline().nodes} == {"train_base_model", "train_pixel_network"}


def test_what_training_took_stands_beside_the_weights(tmp_path: Path) -> None:
    base_model.train_restorer(SHORT, 48, tmp_path / "work", tmp_path / "x2.safetensors")
    assert set(read_json(tmp_path / "work/x2.json")) == {"scenes", "steps", "seconds"}
