"""What is shipped tells nothing of the machine that made it."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from diffusers import AutoencoderKLWan
from safetensors import safe_open

from vibe_pipeline.miniature.networks import build_text_encoder, build_transformer, build_vae, save_pipeline

ROOT = Path(__file__).parents[1]
ABSOLUTE = re.compile(r"(?:^|[\s'\"=:(\[])(?:file://)?(?:/[\w.+-]+){2,}|^~/|\b[A-Za-z]:[\\/]{1,2}\w")
KINDS = (".json", ".safetensors", ".ipynb", ".csv", ".parquet")


def texts(value: Any) -> Iterator[str]:
    """Every string in a structure, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from (str(key), *texts(item))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from texts(item)


def said(file: Path) -> Iterator[str]:
    """Every text that a file of data carries."""
    if file.suffix in (".json", ".ipynb"):
        yield from texts(json.loads(file.read_text()))
    elif file.suffix == ".safetensors":
        with safe_open(file, "pt") as opened:
            yield from texts(dict(opened.metadata() or {}))
    else:
        table = pd.read_parquet(file) if file.suffix == ".parquet" else pd.read_csv(file)
        for column in table.select_dtypes(exclude="number"):
            yield from (str(value) for value in table[column].unique())


def paths_in(folder: Path, files: list[Path]) -> list[str]:
    """Files with the absolute paths that they carry."""
    return [f"{f.relative_to(folder)}: {text[:80]}" for f in files for text in said(f) if ABSOLUTE.search(text)]


def test_no_shipped_file_carries_an_absolute_path() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    names = listed.stdout.split("\0") if listed.returncode == 0 else []
    files = [ROOT / n for n in names if Path(n).suffix in KINDS and not n.startswith("tests/")]
    files = files or [p for p in (ROOT / "data/06_models/base").rglob("*") if p.suffix in KINDS]
    assert any(f.name == "config.json" for f in files)
    assert paths_in(ROOT, files) == []


def test_the_recipe_saves_no_path(tmp_path: Path) -> None:
    """Its VAE is saved, loaded again and saved into the base: diffusers writes down from where."""
    trained = tmp_path / "work/vae_model"
    build_vae().save_pretrained(trained)
    vae = AutoencoderKLWan.from_pretrained(trained)
    assert str(vae.config["_name_or_path"]) == str(trained)
    base = tmp_path / "base"
    save_pipeline(vae, build_transformer(), build_text_encoder(), base)
    files = [path for path in base.rglob("*") if path.suffix in KINDS]
    assert {f.parent.name for f in files} >= {"vae", "transformer", "text_encoder", "tokenizer", "scheduler", "base"}
    assert paths_in(tmp_path, files) == []
    assert AutoencoderKLWan.from_pretrained(base / "vae").config["base_dim"] == vae.config["base_dim"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("/tmp/basework/vae_model", True),
        ("file:///home/a/b", True),
        ("C:\\work\\x", True),
        ("a/b/c", False),
        ("1/2", False),
    ],
)
def test_what_counts_as_an_absolute_path(text: str, found: bool) -> None:
    assert bool(ABSOLUTE.search(text)) == found
