"""kedro vibe fetch-weights and vbench-env: parsing, lines said, exit codes."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from vibe_pipeline.cli import cli
from vibe_pipeline.commands import weights as commands
from vibe_pipeline.vbench import second_env, weights
from vibe_pipeline.vbench.weights import FetchError


@pytest.fixture
def run(monkeypatch):
    parameters = {
        "evaluation": {
            "vbench_dimensions": ["temporal_flickering", "scene"],
            "fine_band": [1, 2],
            "reference_arm": "full",
        },
        "folders": {"vbench_weights": "weights", "vbench_env": "second"},
    }
    monkeypatch.setattr(commands, "parameters_of", lambda chosen: parameters)
    return lambda *arguments: CliRunner().invoke(cli, ["vibe", *arguments])


def test_fetch_weights(run, monkeypatch):
    asked = []

    def fetch(names, cache, tell):
        asked.append((names, cache))
        tell("a line")
        return [] if len(names) == 2 else [FetchError("offline")]

    monkeypatch.setattr(weights, "fetch_weights", fetch)
    done = run("fetch-weights")
    assert (done.exit_code, done.output) == (0, "a line\n")
    assert run("fetch-weights", "--dimensions", "color,object class,scene").exit_code == 1
    assert asked == [
        (["temporal_flickering", "scene"], Path("weights")),
        (["color", "object_class", "scene"], Path("weights")),
    ]
    wrong = run("fetch-weights", "--dimensions", "beauty")
    assert wrong.exit_code == 1 and "unknown VBench dimension 'beauty'" in wrong.output and len(asked) == 2


def test_vbench_env(run, monkeypatch):
    asked = []
    monkeypatch.setattr(second_env, "make_second_env", lambda *arguments: asked.append(arguments[:2]))
    assert run("vbench-env").exit_code == 0 and asked == [(Path("second"), Path("requirements"))]

    def fail(*arguments):
        raise second_env.InstallError("no connection")

    monkeypatch.setattr(second_env, "make_second_env", fail)
    failed = run("vbench-env")
    assert failed.exit_code == 1 and "no connection" in failed.output and "Traceback" not in failed.output
