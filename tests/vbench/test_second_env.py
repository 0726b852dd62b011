"""The second environment: made once by one command, and what it does when a step fails."""

import subprocess
import sys

import pytest

from vibe_pipeline.vbench import second_env
from vibe_pipeline.vbench.second_env import STAMP, InstallError, make_second_env


@pytest.fixture
def requirements(tmp_path):
    folder = tmp_path / "requirements"
    folder.mkdir()
    for name in second_env.REQUIREMENTS:
        (folder / name).write_text("# nothing\n")
    return folder


@pytest.fixture
def steps(monkeypatch):
    """The commands that were run, with pip's left out."""
    ran, stock = [], second_env._run

    def run(command):
        ran.append(command)
        return "" if "pip" in command else stock(command)

    monkeypatch.setattr(second_env, "_run", run)
    monkeypatch.setattr(second_env, "NEWEST_PYTHON", sys.version_info[:2])
    return ran


def test_made_once_and_anew_when_the_pins_change(requirements, steps, tmp_path):
    folder = tmp_path / "env"
    said = []
    python = make_second_env(folder, requirements, said.append)
    assert subprocess.run([python, "-c", "import sys; assert sys.prefix != sys.base_prefix"], check=True)
    installs = [command for command in steps if "pip" in command]
    assert [command.count("-r") for command in installs] == [1, 2] and "torch.txt" in installs[0][-1]
    done = len(steps)
    assert make_second_env(folder, requirements, said.append) == python and len(steps) == done
    assert said[-1].endswith("is there")
    (requirements / "vbench-legacy.txt").write_text("# changed\n")
    make_second_env(folder, requirements, said.append)
    assert len(steps) > done


def test_a_failed_step_leaves_no_finished_environment(requirements, steps, tmp_path, monkeypatch):
    def fail(command):
        if "pip" in command:
            raise InstallError("no connection")
        return steps.append(command) or "3 11"

    monkeypatch.setattr(second_env, "_run", fail)
    with pytest.raises(InstallError, match="no connection"):
        make_second_env(tmp_path / "env", requirements, lambda _: None)
    assert not (tmp_path / "env" / STAMP).exists()


def test_errors_say_what_to_do(requirements, tmp_path, monkeypatch):
    with pytest.raises(InstallError, match=r"failed: .*boom.*run the same command again"):
        second_env._run([sys.executable, "-c", "raise SystemExit('boom')"])
    monkeypatch.setattr(second_env, "NEWEST_PYTHON", (3, 8))
    with pytest.raises(InstallError, match=r"run this command from an environment of Python 3\.11"):
        make_second_env(tmp_path / "env", requirements, lambda _: None)
