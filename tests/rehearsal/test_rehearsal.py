"""The rehearsal: every row tried at its size, failures named and survived, nothing left behind or touched."""

import hashlib
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from kedro.framework.project import configure_project
from kedro.pipeline import Node, Pipeline
from PIL import Image

from tests.conf_files import loader_of_conf, read_conf, write_conf
from tests.diffusion.rrdb_files import real_esrgan_file
from vibe_pipeline.cli import cli
from vibe_pipeline.diffusion import objectives
from vibe_pipeline.diffusion.models import find_model
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.data import DataParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.experiment.load import experiment_of, settled_parameters
from vibe_pipeline.experiment.loader import LayeredLoader
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.experiment.tables import Experiment
from vibe_pipeline.hooks import RehearsalHooks
from vibe_pipeline.images.cache import build_cache, is_current
from vibe_pipeline.io.files import read_json, write_json
from vibe_pipeline.rehearsal import Line, RehearsalError, format_line, rehearse, require_rehearsed
from vibe_pipeline.rehearsal.small import few_native_steps, judged_alone, moved, shortened
from vibe_pipeline.rehearsal.stage import failed_scores
from vibe_pipeline.training import job as training_job

ROOT = Path(__file__).parents[2]
ENV = "wan22_ti2v_5b"
ADAPTERS = ("full", "no_hfato")
ARMS = ("full", "no_hfato", "keep_stage1", "direct", "upsample")


def size(height: int, width: int, frames: int = 1) -> dict[str, int]:
    return {"height": height, "width": width, "frames": frames}


@pytest.fixture
def project(tmp_path: Path, wan22, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose environment has some rows of the 5B's, on the tiny checkpoint of its style."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    monkeypatch.chdir(tmp_path)
    configure_project("vibe_pipeline")
    own = tmp_path / "conf" / ENV
    params = read_conf(own)
    small = {"path": str(wan22.path), "native": size(64, 96, 5), "target": size(128, 256, 5)}
    params["model"] |= small | {"dtype": "float32", "device": "cpu", "text_length": 128, "tile": None, "threads": 1}
    params["data"] |= {"low": size(64, 128), "high": size(128, 256)}
    (tmp_path / "prompts.txt").write_text("a red circle\na blue square\n")
    params["generation"] |= {"prompts": "prompts.txt", "count": None}
    params["evaluation"] |= {"fine_band": [10.0, 30.0], "vbench_dimensions": ["temporal_flickering"]}
    params["adapters"] = {name: params["adapters"][name] | {"seed": 0} for name in ADAPTERS}
    params["arms"] = {name: params["arms"][name] for name in ARMS}
    params["arms"]["keep_stage1"]["adapter"] = "full"
    params["arms"]["swim"] = {
        "label": "FreeSwim", "method": "freeswim", "attention": {"kind": "window"}, "refresh_every": 2, "steps": 50,
    }  # fmt: skip
    weights = real_esrgan_file(tmp_path / "network").relative_to(tmp_path)
    params["arms"]["linear"] = {"label": "Linear filter", "method": "linear"}
    params["arms"]["sr"] = {"label": "A network", "method": "sr", "sr": {"weights": str(weights)}}
    for row in (*params["stage1"].values(), *params["adapters"].values()):
        row["lora"] = {"rank": 4, "alpha": 4}
    write_conf(own, params)
    return tmp_path


def change(project: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    own = project / "conf" / ENV
    params = read_conf(own)
    edit(params)
    write_conf(own, params)


def loader() -> LayeredLoader:
    return loader_of_conf("conf", ENV)


def rehearsed() -> dict[str, Line]:
    params = settled_parameters(loader())
    lines: list[Line] = []
    returned = rehearse(params, experiment_of(params), loader()["catalog"], lines.append)
    assert returned == lines
    return {line.node: line for line in lines}


def contents(folder: Path) -> dict[str, str]:
    """Every file but the lock, by its content."""
    files = (p for p in folder.rglob("*") if p.is_file() and p.name != ".run.lock")
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_every_row_is_tried_and_nothing_is_left_or_touched(project: Path) -> None:
    kept = project / "data/06_models/adapters/full-0/checkpoint.pt"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"hours of work")
    (project / "data/07_model_output/clips/arms/full").mkdir(parents=True)
    (project / "data/07_model_output/clips/arms/full/0000-0-a.mp4").write_bytes(b"a clip")
    leftover = project / "data/.rehearsal/data/06_models"
    before = contents(project)
    leftover.mkdir(parents=True)  # of a killed rehearsal
    lines = rehearsed()
    assert {line.node: line.error for line in lines.values() if line.error} == {}
    expected = {"stage1.modality.train", "render_native", "arms.full.measure", "run_vbench", "write_page"}
    arms = (*ARMS, "swim", "sr", "linear")
    expected |= {f"adapters.{name}.train" for name in ADAPTERS} | {f"arms.{name}.generate" for name in arms}
    assert expected <= set(lines) and all(line.seconds > 0 for line in lines.values())
    order = list(lines)
    trainings = [order.index(name) for name in order if name.endswith(".train")]
    assert max(trainings) < min(order.index(name) for name in order if name.endswith(".generate"))
    assert contents(project) == before and not (project / "data/.rehearsal").exists()
    assert not (project / "mlflow.db").exists() and not (project / "mlruns").exists()


def test_rows_keep_their_sizes_and_take_two_steps_so_that_the_optimisers_state_is_there(project: Path) -> None:
    params = loader()["parameters"]
    whole, model = experiment_of(params), ModelParams(**params["model"])
    small = shortened(whole, model)
    for name, row in whole.adapters.items():
        few = {"steps": 2, "checkpoint_every": 1, "log_every": 1, "validate_every": 2}
        assert small.adapters[name] == row.model_copy(update=few)
    assert small.arms["direct"] == whole.arms["direct"].model_copy(update={"steps": 1})
    assert small.arms["swim"].steps == 2  # the second takes the stored outputs
    stage = {"height": 64, "width": 64, "rope": {"kind": "ntk"}}
    cascade = ArmParams(label="c", method="cascade", stages=[stage], strength_mode="truncated")
    (short,) = shortened(whole.model_copy(update={"arms": {"c": cascade}}), model).arms["c"].stages
    assert short == cascade.stages[0].model_copy(update={"steps": 1, "strength_mode": "all_steps"})
    assert set(judged_alone(small).arms) == {"full"} and set(judged_alone(small).adapters) == {"full"}


def test_of_two_experts_both_are_tried(a14b) -> None:
    """From sigma 0.921 the second step is the low-noise expert's, which has the adapter; from below 0.875 the first."""
    arm = ArmParams(label="a", strength=0.7)
    arms = {"a": arm, "below": ArmParams(label="b", strength=0.5)}
    tables = Experiment(stage1={}, adapters={}, arms=arms, reference_arm="a")
    small = shortened(tables, a14b.model())
    assert {name: row.steps for name, row in small.arms.items()} == {"a": 2, "below": 1}
    native = GenerationParams(prompts="miniature")
    assert [few_native_steps(native, a14b.model(flow_shift=shift)).native_steps for shift in (5.0, 12.0)] == [2, 3]


def latent_width(pixels: int) -> int:
    """Of an image of that many pixels, as the project's VAE makes it."""
    config = find_model(loader()["parameters"]["model"]["path"]).config_of("vae")
    return pixels // config["scale_factor_spatial"]


def test_a_training_that_would_crash_is_found_before_a_clip_is_made(project: Path, monkeypatch) -> None:
    def fails(*args: object, **kwargs: object) -> None:
        raise RuntimeError("CUDA error: out of everything")

    def fails_at_high_resolution(weights: dict[str, float], predict: Any, sample: objectives.Sample) -> Any:
        high = sample.x0.shape[-1] == latent_width(256)
        return fails() if "velocity" in weights and high else objectives.mixed_loss(weights, predict, sample)

    monkeypatch.setattr(training_job, "mixed_loss", fails_at_high_resolution)
    lines = rehearsed()
    assert lines["adapters.no_hfato.train"].error == "RuntimeError: CUDA error: out of everything"
    assert not lines["adapters.full.train"].error and not lines["arms.full.generate"].error
    assert not lines["arms.no_hfato.generate"].error  # with an adapter of zeros
    assert lines["write_page"].error == "not tried, as something before it failed"
    with pytest.raises(
        RehearsalError, match=r"in 1 of \d+ rows, nothing was run: adapters\.no_hfato\.train: .* everything$"
    ):
        require_rehearsed(list(lines.values()))

    monkeypatch.setattr(training_job, "mixed_loss", fails)
    hooks = RehearsalHooks()
    hooks._loader = loader()
    hooks._params = settled_parameters(loader())
    graph = Pipeline([Node(lambda: 1, None, "clips", name="generate", tags="generation")])
    hooks.before_pipeline_run({"runner": "SequentialRunner"}, graph)  # not asked for
    hooks._params = hooks._params | {"run": {"rehearse": True}}
    with pytest.raises(RehearsalError, match=r"stage1\.modality\.train"):
        hooks.before_pipeline_run({"runner": "SequentialRunner"}, graph)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    hooks._params = hooks._params | {"model": hooks._params["model"] | {"device": "auto"}}
    with pytest.raises(ValueError, match=r"takes hold of the GPU, .* run `kedro vibe rehearse` before"):
        hooks.before_pipeline_run({"runner": "ParallelRunner"}, graph)
    assert not list(project.rglob("*.mp4")) and not list(project.rglob("*.safetensors"))


def test_the_command_says_so_and_fails(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of an attention that do not divide the size of training."""
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as where it is not installed
    change(project, lambda p: p["adapters"]["no_hfato"].update(optimiser={"kind": "adamw_8bit"}))
    gone = {"label": "gone", "method": "sr", "sr": {"weights": "gone.pth"}, "optional": True}  # left out
    change(project, lambda p: p["arms"].update(gone=gone))
    done = CliRunner().invoke(cli, ["vibe", "rehearse", f"--env={ENV}"])
    assert done.exit_code == 1, done.output
    said = r"FAILED +[\d.]+ s +- +adapters\.no_hfato\.train: ModuleNotFoundError: .*pip install bitsandbytes"
    assert re.search(said, done.output)
    assert re.search(r"ok +[\d.]+ s +- +arms\.full\.generate$", done.output, re.MULTILINE)
    assert "arms.gone" not in done.output
    assert not (project / "data/.rehearsal").exists()


def test_latents_that_are_there_and_of_these_settings_are_the_ones_trained_on(project: Path) -> None:
    params = loader()["parameters"]
    model, data = ModelParams(**params["model"]), DataParams(**params["data"]).model_copy(update={"held_out": 1})
    rows = []
    for i in range(3):
        Image.new("RGB", (256, 128), (40 * i, 90, 60)).save(project / f"{i}.png")
        rows.append({"path": str(project / f"{i}.png"), "caption": "a wall", "sha256": f"{i:064d}"})
    usable = pd.DataFrame(rows).assign(height=128, width=256)
    manifest = build_cache(usable, find_model(model.path), model, data, project / "data/05_model_input/latents")
    manifest = read_json(write_json(project / "data/05_model_input/latent_cache.json", manifest))
    before = contents(project)
    lines = rehearsed()
    assert "cache_latents" not in lines and not any(line.error for line in lines.values())
    assert contents(project) == before
    found = find_model(model.path)
    assert is_current(manifest, found, model, data)
    assert not is_current(manifest, found, model, data.model_copy(update={"camera_blur": 1.0}))
    Path(manifest["images"][0]["shard"]).unlink()
    assert not is_current(manifest, found, model, data)


def test_every_file_of_the_catalog_is_moved_and_a_store_elsewhere_too() -> None:
    catalog = {
        "a-{name}": {"type": "pandas.CSVDataset", "filepath": "data/07/{name}.csv", "metadata": {"layer": 1}},
        "b": {"type": "pandas.CSVDataset", "filepath": "s3://bucket/b.csv", "credentials": "prod"},
        "c": {"type": "pandas.SQLTableDataset", "table_name": "c", "credentials": "db"},
    }
    folder = Path("/somewhere")
    assert moved(catalog, folder) == {
        "a-{name}": {"type": "pandas.CSVDataset", "filepath": "/somewhere/data/07/{name}.csv"},
        "b": {"type": "pandas.CSVDataset", "filepath": "/somewhere/bucket/b.csv"},
        "c": {"type": "MemoryDataset"},
    }


def test_a_dimension_that_raises_is_a_failure_and_a_score_that_is_not_finite_is_none() -> None:
    """As `score_vbench` says them."""
    reasons = (
        "VBench gave the score nan for a.mp4",
        "failed, because VBench cannot be started: ImportError: libGL.so.1",
    )
    rows = [{"metric": f"m{i}", "status": "failed", "reason": reason} for i, reason in enumerate(reasons)]
    rows.append({"metric": "m2", "status": "skipped", "reason": "no weights"})
    assert failed_scores({"vbench_scores": pd.DataFrame(rows)}) == f"m1: {reasons[1]}"
    assert failed_scores({"scores": pd.DataFrame(rows)}) == ""


def test_a_line_is_one_line() -> None:
    assert format_line(Line("arms.full.generate", 12.34, 41.27)) == "ok         12.3 s   41.3 GB  arms.full.generate"
    assert format_line(Line("run_vbench", 1, None, "no")) == "FAILED      1.0 s         -  run_vbench: no"


def test_a_swept_reference_is_judged_by_one_of_its_variants() -> None:
    rows = {f"full_{i}": {"label": "x", "family": "full", "swept": {"strength": i}} for i in (1, 2)}
    tables = Experiment(
        stage1={}, adapters={}, arms={"upsample": {"label": "u", "method": "upsample"}} | rows, reference_arm="full"
    )
    assert set(judged_alone(tables).arms) == {"full_1"}
