"""The short form of benchmarks/faults.py: killed in the middle, started again, equal to an undisturbed run."""

import importlib.util
import random
import time
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks/faults.py"


@pytest.fixture
def faults() -> ModuleType:
    """The benchmark as a module."""
    spec = importlib.util.spec_from_file_location("faults", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_killed_run_started_again_equals_an_undisturbed_one(faults: ModuleType, tmp_path: Path) -> None:
    straight, killed = (faults.make_project(tmp_path / name, 1, images=16, steps=8) for name in ("straight", "killed"))
    begun = time.monotonic()
    assert faults.attempt(straight, None)
    report = faults.torture(killed, 2, 0.9 * (time.monotonic() - begun), random.Random(0))
    assert report["redone"] == dict.fromkeys(faults.PIECES, 0)
    expected = faults.results(straight)
    assert len(expected) > 10
    assert faults.results(killed) == expected
