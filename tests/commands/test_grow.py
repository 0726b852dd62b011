"""`kedro vibe grow`: look after look, ended by verdicts or budgets, and gone on with after a kill."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner, Result
from kedro.framework.project import configure_project

from tests.conf_files import read_conf, write_conf
from vibe_pipeline.cli import cli
from vibe_pipeline.commands import grow
from vibe_pipeline.commands.options import Chosen, parameters_of
from vibe_pipeline.evaluation.bootstrap import Bootstrap
from vibe_pipeline.evaluation.claims import judge_claims
from vibe_pipeline.evaluation.claims_table import claims_table
from vibe_pipeline.evaluation.sequential import look_of
from vibe_pipeline.experiment.claims import Claims
from vibe_pipeline.experiment.generation import GenerationParams

ROOT = Path(__file__).parents[2]
LOOKS = ["--blocks", "8,16,32"]
# Gains of two claims in standard deviations over prompts: one that the second look tells, one that none does.
GAINS = {"large": 1.6, "none": 0.02}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The miniature with two claims, in a folder of its own."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "src").mkdir()
    asked = {"metric": "psnr", "better": "higher", "margin": 0.01}
    arms = {"large": ("full", "upsample"), "none": ("full", "no_relay")}
    rows = [{"name": n, "statement": n, "kind": "k", "arm": a, "other": b} for n, (a, b) in arms.items()]
    (tmp_path / "conf/base/claims.yml").write_text(yaml.safe_dump({"kinds": {"k": {"primary": asked}}, "claims": rows}))
    monkeypatch.chdir(tmp_path)
    configure_project("vibe_pipeline")
    return tmp_path


def scores(prompts: int) -> pd.DataFrame:
    """The same prompts at every look, more of them at a later one."""
    rng, rows = np.random.default_rng(5), []
    for prompt in range(prompts):
        gains = {name: gain + rng.standard_normal() for name, gain in GAINS.items()}
        levels = {"full": 0.0, "upsample": -gains["large"], "no_relay": -gains["none"]}
        rows += [(arm, prompt, 0, "psnr", level) for arm, level in levels.items()]
    table = pd.DataFrame(rows, columns=["arm", "prompt_index", "seed", "metric", "value"])
    return table.assign(direction="higher", family="detail", status="scored", reason="")


@pytest.fixture
def run(project: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """A stand-in for `kedro run`: verdicts by the package's own code on made-up scores, and how many prompts it had.

    `fails` are prompts at which it is killed once.
    """
    made: list[int] = []
    fails: list[int] = []

    def stand_in(command: list[str], note: Callable[[], object]) -> int:
        assert command[1:4] == ["-m", "kedro", "run"] and command[0] == sys.executable
        given = yaml.safe_load(Path(command[4].removeprefix("--config=")).read_text())["run"]
        params = parameters_of(Chosen(given.get("env"), given["params"]))
        generation = GenerationParams(**params["generation"])
        made.append(generation.count)
        note()
        if generation.count in fails:
            fails.remove(generation.count)
            raise KeyboardInterrupt
        bootstrap = Bootstrap(samples=200, look=look_of(generation))
        table = claims_table(
            judge_claims(Claims(params["claims"]).root, scores(generation.count), bootstrap), bootstrap
        )
        place = Path(params["folders"]["reporting"]) / "claims_table.csv"
        table.to_csv(place, index=False)
        return 0

    monkeypatch.setattr(grow, "_run", stand_in)
    stand_in.made, stand_in.fails = made, fails
    return stand_in


def call(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["vibe", "grow", *arguments])


def test_it_looks_until_the_last_look_and_says_what_each_told(run) -> None:
    done = call(*LOOKS)
    assert done.exit_code == 0 and run.made == [8, 16, 32], done.output
    lines = [line for line in done.output.splitlines() if "told" in line]
    assert lines[0].startswith("look 1 of 3, 8 of at most 32 prompts, level 1.5e-05") and "told 0; open 2" in lines[0]
    assert "told 1 (large holds); open 1 (none)" in lines[1]
    assert lines[-1] == "that was the last look; from this data cannot be told: none"
    again = call(*LOOKS)
    assert again.exit_code == 0 and run.made == [8, 16, 32], "nothing is run a second time"
    assert again.output.splitlines() == lines


def test_it_ends_once_every_claim_is_told(project: Path, run) -> None:
    claims = yaml.safe_load((project / "conf/base/claims.yml").read_text())
    claims["claims"].pop()
    (project / "conf/base/claims.yml").write_text(yaml.safe_dump(claims))
    done = call(*LOOKS)
    assert done.output.splitlines()[-1] == "every claim that can be told is told, at look 2 of 3" and run.made == [
        8,
        16,
    ]


def test_a_killed_look_is_made_again_and_no_earlier_one(project: Path, run) -> None:
    run.fails.append(16)
    assert call(*LOOKS).exit_code == 1 and run.made == [8, 16]
    done = call(*LOOKS)
    assert done.exit_code == 0 and run.made == [8, 16, 16, 32]
    assert done.output.splitlines()[0].startswith("look 1 of 3"), "what was told before is said again"


def test_another_experiment_begins_at_its_first_look(run) -> None:
    call(*LOOKS, "--budget-prompts=8")
    call(*LOOKS, "--budget-prompts=8", "--params=generation.native_steps=7")
    assert run.made == [8, 8]


def test_budgets_end_it_before_a_look(run) -> None:
    done = call(*LOOKS, "--budget-prompts=20")
    assert done.output.splitlines()[-1] == "the next look takes 32 prompts, more than the budget of 20"
    assert run.made == [8, 16]
    spent = call(*LOOKS, "--budget-hours=1e-12")
    assert spent.output.splitlines()[-1].endswith("h is spent; verdicts stand at look 2 of 3") and len(run.made) == 2


def test_a_look_gets_the_hours_that_are_left_and_the_runner(project: Path, run) -> None:
    call(*LOOKS, "--budget-prompts=8", "--budget-hours=2", "--params=run.hours=5", "--runner=ThreadRunner")
    given = yaml.safe_load((project / "data/08_reporting/look.yml").read_text())["run"]
    assert given["params"]["run"]["hours"] == pytest.approx(2, abs=0.01) and given["runner"] == "ThreadRunner"


def test_a_run_that_fails_ends_it_with_its_code(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grow, "_run", lambda command, note: 3)
    done = call(*LOOKS)
    assert done.exit_code == 3 and "the same command goes on there" in done.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "generation.sequential is not set: give --blocks"),
        (["--blocks", "8,8"], "each look needs more prompts than the one before: 8 follows 8"),
        (["--blocks", "8"], "generation.sequential.blocks"),
        (["--blocks", "8,x"], "whole numbers with commas between them"),
        (["--blocks", "4,8"], "begin with 4 prompts; fewer than 6 can tell nothing"),
        (["--blocks", "8,5000"], "generation.sequential.blocks end at 5000 prompts"),
    ],
)
def test_looks_that_cannot_be_made_are_refused_before_any_run(run, arguments: list[str], said: str) -> None:
    done = call(*arguments)
    assert done.exit_code != 0 and said in done.output and not run.made


def test_without_claims_there_is_nothing_to_tell(project: Path, run) -> None:
    (project / "conf/base/claims.yml").write_text("kinds: {}\nclaims: []\n")
    assert "this environment has no claims" in call(*LOOKS).output and not run.made


def test_the_environments_own_looks_are_taken(project: Path, run) -> None:
    params = read_conf(project / "conf/base")
    params["generation"]["sequential"] = {"blocks": [8, 12], "spending": "pocock"}
    write_conf(project / "conf/base", params)
    assert "look 1 of 2, 8 of at most 12 prompts, level 0.038" in call().output and run.made == [8, 12]


def test_a_run_that_is_terminated_is_interrupted_and_waited_for(tmp_path: Path) -> None:
    """By SIGTERM, as schedulers do: the run ends as it does by Ctrl-C, which closes it in MLflow."""
    sleeper = f"""
import pathlib, time
place = pathlib.Path({str(tmp_path)!r})
try:
    (place / "began").touch()
    time.sleep(60)
except KeyboardInterrupt:
    (place / "interrupted").touch()
"""
    script = (
        f"from vibe_pipeline.commands.grow import _run\nimport sys\n_run([sys.executable, '-c', {sleeper!r}], print)"
    )
    process = subprocess.Popen([sys.executable, "-c", script], env=os.environ)
    while not (tmp_path / "began").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 128 + signal.SIGTERM and (tmp_path / "interrupted").exists()
