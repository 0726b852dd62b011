"""kedro vibe fetch-weights and vbench-env: parsing, lines said, exit codes."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from vibe_pipeline.cli import cli
from vibe_pipeline.commands import weights as commands
from vibe_pipeline.evaluation import weights as measure_weights
from vibe_pipeline.vbench import second_env, weights
from vibe_pipeline.vbench.weights import FetchError


@pytest.fixture
def parameters():
    return {
        "evaluation": {
            "vbench_dimensions": ["temporal_flickering", "scene"],
            "fine_band": [1, 2],
            "reference_arm": "full",
        },
        "folders": {"vbench_weights": "weights", "vbench_env": "second"},
    }


@pytest.fixture
def run(parameters, monkeypatch):
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


def test_measures_are_fetched_beside_or_alone(run, parameters, monkeypatch):
    asked = []
    monkeypatch.setattr(weights, "fetch_weights", lambda names, cache, tell: asked.append(("vbench", *names)) or [])
    monkeypatch.setattr(
        measure_weights,
        "fetch_files",
        lambda files, folder, tell: asked.append((str(folder), *(file.path for file in files))) or [],
    )
    parameters["evaluation"] |= {"extra_measures": ["hd_mse", "patch_niqe"]}
    parameters["folders"] |= {"measure_weights": "own"}
    done = run("fetch-weights")
    assert done.exit_code == 0 and done.output == "hd_mse needs no weights\n"
    scored = ("vbench", "temporal_flickering", "scene")
    assert asked == [scored, ("own", "niqe_modelparameters.mat")]
    asked.clear()
    assert run("fetch-weights", "--measures", "hd_lpips,hd_fvd_r3d_18").exit_code == 0
    assert asked == [("own", "alexnet-owt-7be5be79.pth", "lpips_v0.1_alex.pth"), ("own", "r3d_18-b3b3357e.pth")]
    asked.clear()
    assert run("fetch-weights", "--dimensions", "scene").exit_code == 0 and asked == [("vbench", "scene")]
    wrong = run("fetch-weights", "--measures", "beauty")
    assert wrong.exit_code == 1 and "'beauty' is not one of hd_mse" in wrong.output and len(asked) == 1


def test_vbench_env(run, monkeypatch):
    asked = []
    monkeypatch.setattr(second_env, "make_second_env", lambda *arguments: asked.append(arguments[:2]))
    assert run("vbench-env").exit_code == 0 and asked == [(Path("second"), Path("requirements"))]

    def fail(*arguments):
        raise second_env.InstallError("no connection")

    monkeypatch.setattr(second_env, "make_second_env", fail)
    failed = run("vbench-env")
    assert failed.exit_code == 1 and "no connection" in failed.output and "Traceback" not in failed.output
