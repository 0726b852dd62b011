"""Manifests: what another version wrote is passed over, what is not one is named in a line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kedro.io import DatasetError

from vibe_pipeline.datasets import AdapterDataset
from vibe_pipeline.io.manifests import AdapterManifest

OWN = {"name": "full", "key": "k", "path": "a/b.safetensors"}


@pytest.mark.parametrize("read", [AdapterManifest.read, lambda f: AdapterDataset(filepath=str(f)).load()])
def test_it_comes_back_as_it_was_written(tmp_path: Path, read: Callable[[Path], AdapterManifest]) -> None:
    file = tmp_path / "full.json"
    file.write_text(json.dumps(OWN | {"losses": "l.csv", "held_out_loss": 0.5, "of another version": 1}))
    manifest = AdapterManifest(**OWN, losses="l.csv", held_out_loss=0.5)
    assert read(file) == manifest and manifest.trained
    assert manifest.path == Path("a/b.safetensors")


CASES: dict[str, tuple[Any, str]] = {
    "no path": ({"name": "full", "key": "k"}, "path: Field required"),
    "a loss in words": (OWN | {"final_loss": "low"}, "final_loss: "),
    "a list": ([OWN], "is not the manifest"),
}


@pytest.mark.parametrize("read", [AdapterManifest.read, lambda f: AdapterDataset(filepath=str(f)).load()])
@pytest.mark.parametrize("case", CASES)
def test_what_is_not_one_is_refused_in_a_line(tmp_path: Path, read: Callable, case: str) -> None:
    content, said = CASES[case]
    (tmp_path / "full.json").write_text(json.dumps(content))
    with pytest.raises((ValueError, DatasetError)) as error:
        read(tmp_path / "full.json")
    message = str(error.value)
    assert str(tmp_path / "full.json") in message and said in message
    assert message.endswith("delete it and run the row again")
