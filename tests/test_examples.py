"""Every file of examples/ works: it is run, or what it says is what commands and parameters take."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import yaml

from tests.conf_files import loader_of_conf
from tests.generation.methods.test_methods import GENERATION, params_of
from tests.planning.kept_plans import plan_of
from tests.test_commands import options_in, options_of
from vibe_pipeline.cli import run, vibe
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.load import settled_parameters
from vibe_pipeline.generation.methods import METHODS, ArmJob, checked_tables
from vibe_pipeline.io.video import read_clip, write_lossless
from vibe_pipeline.planning.plan import Assumed

EXAMPLES = Path(__file__).parents[1] / "examples"
FILES = sorted(file.name for file in EXAMPLES.iterdir() if file.name != "README.md")


def module(name: str) -> ModuleType:
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(Path(name).stem, EXAMPLES / name)
    assert spec and spec.loader
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_each_has_a_row_in_the_table_and_a_test_here() -> None:
    listed = re.findall(r"`(\w+\.\w+)`", (EXAMPLES / "README.md").read_text())
    assert sorted(listed) == FILES
    here = Path(__file__).read_text()
    assert all(f'"{name}"' in here for name in FILES)


def test_the_photographs_commands_and_options_exist() -> None:
    text = (EXAMPLES / "own_photographs_24gb.sh").read_text()
    commands = re.findall(r"^kedro [^#\n]*", text, re.M)
    assert len(commands) == 6
    for command in commands:
        words = command.split()
        known = run if words[1] == "run" else vibe.commands[words[2]]
        assert options_in(command) <= options_of(known), command
    subprocess.run(["bash", "-n", EXAMPLES / "own_photographs_24gb.sh"], check=True)


def test_the_photographs_take_as_long_as_is_said(tmp_path: Path) -> None:
    text = (EXAMPLES / "own_photographs_24gb.sh").read_text()
    params = settled_parameters(loader_of_conf(EXAMPLES.parent / "conf", "wan21_t2v_1_3b"))
    params["adapters"] = {"full": params["adapters"]["full_seed_0"]}
    params["arms"] = {name: params["arms"][name] for name in ("no_adapter", "upsample")} | {
        "full": params["arms"]["full_seed_0"] | {"adapter": "full"}
    }
    (count,) = {int(n) for n in re.findall(r"--params=generation\.count=(\d+)", text)}
    hours = {}
    for clips in (count, params["generation"]["count"]):
        params["generation"]["count"] = clips
        plan = plan_of(params, Assumed("4090", images=200, cores=2))
        hours[clips] = plan.hours
    said, training, days = (float(n) for n in re.findall(r"([\d.]+) (?:h on|h of|days)", text))
    assert hours[count] == pytest.approx(said, abs=0.3) and hours[64] / 24 == pytest.approx(days, abs=0.1)
    assert plan.training_hours == pytest.approx(training, abs=0.3) and plan.peak_memory_gb < 24


@pytest.mark.parametrize("name", ["compare_with_another_system.yml", "four_step_lora.yml"])
def test_rows_are_taken_as_they_stand(name: str) -> None:
    rows = yaml.safe_load((EXAMPLES / name).read_text())["arms"]
    arms = {row: ArmParams(**fields) for row, fields in rows.items()}
    assert arms
    for arm in arms.values():
        METHODS[arm.method].check(arm)


def test_the_method_makes_clips_of_the_target_size(wan21, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = module("add_a_method.py").Nearest()
    monkeypatch.setitem(METHODS, "nearest", entry)
    arm = checked_tables(params_of(method="nearest")).arms["a"]
    model = wan21.model()
    size = model.native
    pixels = np.random.default_rng(0).random((size.frames, size.height, size.width, 3), dtype=np.float32)
    native = write_lossless(tmp_path / "native.mp4", pixels, size.fps)
    job = ArmJob(name="a", arm=arm, native=pd.DataFrame(), model=model, generation=GENERATION, root=tmp_path)
    with entry.prepare(job) as make:
        (made,) = make([{"native_path": str(native)}])
    kept = read_clip(native)
    expected = kept.repeat(model.target.height // size.height, 1).repeat(model.target.width // size.width, 2)
    np.testing.assert_allclose(made.permute(1, 2, 3, 0), expected)


def test_a_folder_is_scored(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).random((5, 64, 64, 3), dtype=np.float32)
    write_lossless(tmp_path / "a.mp4", pixels, 8)
    done = subprocess.run(
        [sys.executable, EXAMPLES / "score_a_folder.py", tmp_path], capture_output=True, text=True, check=True
    )
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert {"flicker", "high_frequency_share"} <= {name for _, name, _ in lines}
    assert {clip for clip, _, _ in lines} == {"a.mp4"} and all(np.isfinite(float(value)) for *_, value in lines)
