"""The image of `Dockerfile` holds what is shipped and nothing that runs made; no Docker is needed to tell."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def instructions() -> list[tuple[str, str]]:
    """Those of the Dockerfile in order, each with its arguments on one line."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split()[0], " ".join(line.split()[1:])) for line in text.splitlines() if line.strip()]


def left_out(path: str) -> bool:
    """Whether .dockerignore keeps a path out: of the lines that match it or a folder above it, the last counts."""
    found = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            parts = re.split(r"(\*\*/|\*)", line.removeprefix("!"))
            says = {"**/": "(.*/)?", "*": "[^/]*"}
            if re.fullmatch("".join(says.get(part, re.escape(part)) for part in parts) + "(/.*)?", path):
                found = not line.startswith("!")
    return found


def test_every_file_that_is_copied_or_installed_from_is_there_and_comes_along() -> None:
    copied = [argument.split()[0] for name, argument in instructions() if name == "COPY"]
    assert copied == ["requirements", "."]
    installs = [argument for name, argument in instructions() if name == "RUN" and "pip install" in argument]
    named = re.findall(r"(?:-r|-c) (\S+)", " ".join(installs))
    assert len(named) == 5
    for path in ("requirements", "pyproject.toml", "README.md", "LICENSE", *named):
        assert (ROOT / path).exists() and not left_out(path), path


def test_torch_is_installed_first_and_from_the_index_that_was_asked_for() -> None:
    """Without an address the index's own build, which brings CUDA along; nothing after it may name another."""
    (first, *later) = [argument for name, argument in instructions() if name == "RUN" and "pip install" in argument]
    assert "TORCH_INDEX=" in [argument for name, argument in instructions() if name == "ARG"]
    for given, said in (("", ""), ("https://there/cpu", "--index-url https://there/cpu")):
        run = ["sh", "-c", f'set -- ; pip() {{ echo "$*"; }}; TORCH_INDEX={given}; {first}']
        told = subprocess.run(run, capture_output=True, text=True, check=True).stdout.split()
        assert " ".join(told) == " ".join(f"install {said} -r requirements/torch.txt".split())
    assert not any("torch.txt" in argument or "index" in argument for argument in later)
    assert all("constraints.txt" in argument for argument in later[:1])


def test_what_is_shipped_comes_along() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a clone")
    tracked = listed.stdout.rstrip("\0").split("\0")
    assert "data/06_models/pixel_network_x3.safetensors" in tracked
    assert [path for path in tracked if left_out(path)] == []


@pytest.mark.parametrize(
    "path",
    [
        ".git/HEAD", ".venv/bin/python", "mlflow.db", "mlflow.db-wal", "mlartifacts/1/a.mp4",
        "conf/local/parameters.yml",
        "data/01_raw/images/0.png", "data/06_models/adapters/full.json", "data/07_model_output/clips.parquet",
        "src/vibe_pipeline/__pycache__/cli.pyc", "src/vibe_pipeline.egg-info/PKG-INFO", "data/.run.lock",
    ],
)  # fmt: skip
def test_what_is_ones_own_or_was_made_stays_out(path: str) -> None:
    assert left_out(path)
