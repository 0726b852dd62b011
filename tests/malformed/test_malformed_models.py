"""Model folders: damaged configurations and weights are named by file; weights in pickles are not loaded."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from vibe_pipeline.diffusion.models import (
    WanCheckpoint,
    find_model,
    load_transformer,
    load_vae,
    require_fitting_size,
    text_embeddings,
)

CPU = torch.device("cpu")
INDEX, VAE, TRANSFORMER = "model_index.json", "vae/config.json", "transformer/config.json"


@pytest.fixture
def model(wan21, tmp_path: Path) -> Path:
    """A copy of a whole model, to be damaged."""
    return shutil.copytree(wan21.path, tmp_path / "model")


def use(folder: Path) -> None:
    """What a run asks of a model before anything is loaded."""
    found = find_model(str(folder))
    require_fitting_size(found, 64, 96, "model.target")
    found.config_of("text_encoder")


# File, content (None: it is not there), and what the message names.
CONFIGS: dict[str, tuple[str, bytes | str | None, str]] = {
    "index gone": (INDEX, None, "no model_index.json"),
    "index empty": (INDEX, "", "not JSON"),
    "index cut": (INDEX, '{"_class_name": "Wan', "not JSON"),
    "index a list": (INDEX, "[]", "[]"),
    "index latin-1": (INDEX, b'{"a": "caf\xe9"}', "0xe9"),
    "index nested": (INDEX, '{"a":' * 50_000, "not JSON"),
    "index a page": (INDEX, "<!DOCTYPE html>", "not JSON"),
    "vae gone": (VAE, None, "No such file"),
    "vae cut": (VAE, '{"z_dim": 16,', "not JSON"),
    "vae null": (VAE, "null", "None"),
    "vae scale in words": (VAE, '{"scale_factor_spatial": "eight"}', "'eight'"),
    "vae scale 0": (VAE, '{"scale_factor_spatial": 0}', "0"),
    "vae channels half": (VAE, '{"z_dim": 16.5}', "16.5"),
    "patches missing": (TRANSFORMER, '{"patch_size": null}', "patch_size is None"),
    "patches negative": (TRANSFORMER, '{"patch_size": [1, -2, 2]}', "[1, -2, 2]"),
    "encoder without width": ("text_encoder/config.json", "{}", "d_model is None"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_configuration(model: Path, refused: Callable, case: str) -> None:
    name, content, named = CONFIGS[case]
    (model / name).unlink()
    if content is not None:
        (model / name).write_bytes(content.encode() if isinstance(content, str) else content)
    refused(lambda: use(model), str(model) if name == INDEX else str(model / name), named)


def test_a_configuration_of_an_older_diffusers_is_none(model: Path) -> None:
    """Wan2.1's own files were written before the VAE's scale had a name."""
    before = find_model(str(model)).config_of("vae")
    config = {k: v for k, v in json.loads((model / VAE).read_text()).items() if not k.startswith("scale_factor")}
    (model / VAE).write_text(json.dumps(config))
    use(model)
    assert find_model(str(model)).config_of("vae") == before


def text_encoder(model: WanCheckpoint) -> object:
    return next(text_embeddings(model, ["a ball"], 12, CPU, torch.float32))


LOADERS: dict[str, tuple[str, Callable[[WanCheckpoint], object]]] = {
    "transformer": ("diffusion_pytorch_model", lambda m: load_transformer(m, CPU, torch.float32)),
    "vae": ("diffusion_pytorch_model", lambda m: load_vae(m, CPU)),
    "text_encoder": ("model", text_encoder),
}
DAMAGES: dict[str, Callable[[bytes, Any], bytes | None]] = {
    "gone": lambda content, bomb: None,
    "0 bytes": lambda content, bomb: b"",
    "cut": lambda content, bomb: content[:-1000],
    "pickle": lambda content, bomb: pickle.dumps(bomb),
}


@pytest.mark.parametrize("part", LOADERS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_weights(model: Path, refused: Callable, bomb: object, part: str, damage: str) -> None:
    name, load = LOADERS[part]
    path = model / part / f"{name}.safetensors"
    content = DAMAGES[damage](path.read_bytes(), bomb)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    else:  # what the libraries would take instead
        torch.save({}, path.with_suffix(".bin"))
        torch.save({}, path.with_name("pytorch_model.bin"))
    refused(lambda: load(find_model(str(model))), str(model / part))
