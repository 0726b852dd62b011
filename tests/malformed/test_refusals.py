"""Whole commands: a refusal is the last line of standard error, and the exit code says so; no secret is told."""

import os
import pickle
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from kedro.framework.project import configure_project

from tests.conf_files import read_conf, write_conf
from vibe_pipeline.cli import cli
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.reporting.page import write_report
from vibe_pipeline.reporting.report_inputs import ReportInputs

ROOT = Path(__file__).parents[2]
TOKEN, PASSWORD = "hf_QWERTYuiopASDFghjklZXCVbnm123456", "hunter2secret"


@pytest.fixture
def project(wan21, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with a tiny model."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf", ignore=shutil.ignore_patterns("local"))
    for folder in ("conf/local", "src", "data/06_models/adapters"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("pyproject.toml", ".telemetry"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(wan21.path, tmp_path / "model")
    base = tmp_path / "conf/base"
    params = read_conf(base)
    params["model"]["path"] = "model"
    for row in ("gclf", "sr"):  # pooled tokens that do not fit this model's at that target, weights that stayed behind
        del params["arms"][row]
    write_conf(base, params)
    monkeypatch.chdir(tmp_path)
    configure_project("vibe_pipeline")
    return tmp_path


def pickled(project: Path, bomb: object) -> tuple[list[str], str]:
    (project / "theirs.safetensors").write_bytes(pickle.dumps(bomb))
    return ["import-adapter", "theirs.safetensors", "--output", "new"], "theirs.safetensors"


def no_manifest(project: Path, bomb: object) -> tuple[list[str], str]:
    (project / "data/06_models/adapters/full.json").write_text("{")
    return ["export-adapter", "full", "--to", "comfyui", "--output", "new"], "full.json"


def no_scores(project: Path, bomb: object) -> tuple[list[str], str]:
    (project / "a.parquet").write_bytes(b"PAR1PAR1")
    return ["compare", "a.parquet", "a.parquet"], "a.parquet"


def no_model(project: Path, bomb: object) -> tuple[list[str], str]:
    (project / "model/vae/config.json").write_text("{")
    return ["plan"], "vae/config.json"


@pytest.mark.parametrize("damage", [pickled, no_manifest, no_scores, no_model])
def test_a_command(project: Path, marker: Path, bomb: object, damage: Callable) -> None:
    arguments, named = damage(project, bomb)
    done = CliRunner().invoke(cli, ["vibe", *arguments])
    assert done.exit_code == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: ") and named in last, done.output
    assert "Traceback" not in done.output
    assert not (project / "new").exists() and not marker.exists()


def kedro_run(project: Path, *options: str) -> tuple[int, str]:
    """Exit code and all that was said."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_TOKEN": TOKEN, "MLFLOW_TRACKING_PASSWORD": PASSWORD}
    command = [sys.executable, "-m", "kedro", "run", *options]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=500)
    return done.returncode, f"{done.stdout}\n{done.stderr}"


def test_a_run_with_a_broken_parameter(project: Path) -> None:
    """One line: nothing of Kedro, OmegaConf or the logging stands before it."""
    (project / "conf/local/parameters.yml").write_text("generation: {seeds: [1, one]}\n")
    code, said = kedro_run(project)
    (line,) = said.strip().splitlines()
    assert code == 1
    assert line.startswith("Error: ") and "generation" in line and "seeds" in line and "'one'" in line
    assert sorted(path.name for path in (project / "data").rglob("*")) == ["06_models", "adapters"]


def test_what_a_run_looks_at_and_does_not_find_is_one_line_unless_more_is_asked_for(project: Path) -> None:
    """Refused by a hook, after the parameters: an error of the operating system, not of ours."""
    params = "--params=generation.prompts=nowhere.txt"
    code, said = kedro_run(project, params)
    (line,) = said.strip().splitlines()
    assert code == 1 and line.startswith("Error: generation.prompts: nowhere.txt does not exist; give")
    assert not (project / "data/08_reporting").exists() and not (project / "data/.live").exists()
    code, said = kedro_run(project, params, "--verbose")
    assert code == 1 and "Traceback" in said and said.strip().splitlines()[-1].startswith("FileNotFoundError: gen")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--params=generation.cuont=3"], "generation has no field 'cuont'; did you mean 'count'?"),
        (["--runner=ParalelRunner"], "--runner: 'ParalelRunner' cannot be found; there are SequentialRunner, "),
        (["--pipelines=generaton"], "there is no pipeline 'generaton'; there are data_processing, "),
        (["--nodes=arms.ful.generate"], "there is no node 'arms.ful.generate' in this pipeline; did you mean 'arms.f"),
        (["--tags=nothing"], "there is no tag 'nothing' in this pipeline"),
        (
            ["--env=local", "--pipelines=relay_stage2"],
            "degradation_checks, latent_cache are not there yet, data_processing makes them; stage1-modality is not "
            "there yet, relay_stage1 makes it. Run first: kedro run --env=local --pipelines=data_processing,relay_sta",
        ),
    ],
)
def test_a_slip_of_the_keyboard_is_told_in_the_words_of_who_typed(project: Path, options: list[str], said: str) -> None:
    done = CliRunner().invoke(cli, ["run", *options])
    assert done.exit_code == 1 and done.stderr.strip().splitlines()[-1].startswith(f"Error: {said}"), done.output


def test_a_run_tells_no_secret(project: Path) -> None:
    """Neither in the log and the error, of a server that is not there, nor in any file that it leaves."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    secret = project / "conf/local/parameters.yml"
    secret.write_text(yaml.safe_dump({"tracking": {"uri": f"http://me:{PASSWORD}@{address}"}}))
    code, said = kedro_run(project)
    assert code == 1
    assert f"http://***@{address}" in said.strip().splitlines()[-1], said[-2000:]
    left = [path.read_bytes() for path in project.rglob("*") if path.is_file() and path != secret]
    for word in (TOKEN, PASSWORD):
        assert word not in said
        assert not any(word.encode() in content for content in left)


def test_the_report_tells_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses in what made the figures lose user and password; variables are not shown at all."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    sources = {"base model": f"https://me:{TOKEN}@hub/model", "vbench": {"weights": f"https://host/w?token={TOKEN}"}}
    made = {"tracking": f"postgresql://me:{PASSWORD}@host/mlflow", "seeds": [0]} | sources
    inputs = ReportInputs("Report", {"full": ArmParams(label="Full")}, {}, "full", provenance=made)
    page = write_report(inputs, tmp_path).read_text()
    assert "https://***@hub/model" in page and "postgresql://***@host/mlflow" in page
    assert TOKEN not in page and PASSWORD not in page
