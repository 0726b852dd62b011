"""What a command does not need is not imported: how fast it starts is decided by that."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "torchvision", "diffusers", "transformers", "peft", "spandrel", "mlflow", "matplotlib", "scipy")
SHOW = f"\nimport json, sys\nprint(json.dumps([name for name in {HEAVY} if name in sys.modules]), file=sys.stderr)\n"
COMMAND = """
import sys
from kedro.framework.project import configure_project
configure_project("vibe_pipeline")
from vibe_pipeline.cli import cli
cli(sys.argv[1:])
"""


def loaded_by(script: str, folder: Path, *arguments: str) -> tuple[list[str], str]:
    """Heavy packages that a process has loaded at its end, and what it printed."""
    script = f"import atexit\natexit.register(lambda: exec({SHOW!r}, {{}}))\n{script}"
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr and not done.returncode, done.stderr
    return json.loads(done.stderr.splitlines()[-1]), done.stdout


@pytest.fixture
def project(tmp_path: Path, wan21) -> Path:
    """A folder with the configuration, and a tiny checkpoint as its model."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    path = tmp_path / "conf/base/parameters.yml"
    params = yaml.safe_load(path.read_text())
    params["model"]["path"] = str(wan21.path)
    path.write_text(yaml.safe_dump(params))
    path = tmp_path / "conf/base/experiment.yml"
    tables = yaml.safe_load(path.read_text())
    weights = {"weights": "RealESRGAN_x4plus.pth"}  # counted before it is fetched
    del tables["arms"]["gclf"]  # pooled tokens that do not fit this model's
    tables["arms"]["sr"] = {"label": "sr", "method": "sr", "sr": weights, "optional": True}
    path.write_text(yaml.safe_dump(tables))
    return tmp_path


@pytest.mark.parametrize("module", ["cli", "settings", "hooks", "experiment.loader"])
def test_what_kedro_imports_for_every_command_is_light(module: str) -> None:
    loaded, _ = loaded_by(f"import vibe_pipeline.{module}", ROOT)
    assert loaded == []


@pytest.mark.parametrize("arguments", [("--version",), ("--help",), ("vibe", "--help"), ("vibe", "plan", "--help")])
def test_kedro_and_its_help_load_nothing_heavy(arguments: tuple[str, ...]) -> None:
    loaded, printed = loaded_by("from kedro.framework.cli.cli import main\nmain()", ROOT, *arguments)
    assert loaded == []
    assert "version" in printed or "Usage" in printed


@pytest.mark.parametrize(("command", "shown"), [("plan", "all of it"), ("doctor", "weights: ")])
def test_plan_and_doctor_load_nothing_heavy_once_their_figures_are_kept(
    project: Path, command: str, shown: str
) -> None:
    first, made = loaded_by(COMMAND, project, "vibe", command)
    again, kept = loaded_by(COMMAND, project, "vibe", command)
    assert "diffusers" in first and again == []
    assert made == kept and shown in kept
