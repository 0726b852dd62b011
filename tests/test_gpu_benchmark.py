"""benchmarks/gpu.py as far as a CPU can show it: every part but the whole run, and that a wrong kernel is a FAIL."""

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).parents[1]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("gpu")


def test_on_a_cpu_at_toy_sizes_all_is_green_and_kept(gpu, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "gpu.json"
    parts = [part for part in gpu.PARTS if part != "run"]
    command = ["--device", "cpu", "--small", "--json", str(file), "--parts", *parts]
    assert gpu.main(command) == 0, capsys.readouterr().out
    shown = capsys.readouterr().out
    lines = json.loads(file.read_text())["lines"]
    assert {line["part"] for line in lines} == set(parts) and "FAIL" not in shown
    assert not [line for line in lines if line["error"]]
    assert sum(line["passed"] is True for line in lines) > 30  # correctness and the step have goals on a CPU too
    gpu.main(command)
    assert len(capsys.readouterr().out.splitlines()) == 2  # where, and the count: nothing is done again


def test_a_wrong_result_fails_and_an_error_is_tried_again(gpu, tmp_path: Path) -> None:
    setting = gpu.Setting("cpu", True)

    def broken(_: object) -> float:
        raise RuntimeError("no kernel\nmore")

    wrong = gpu.settle(gpu.Check("speed", "wrong", lambda _: 2.0, goal=1.0), setting)
    error = gpu.settle(gpu.Check("speed", "broken", broken, goal=1.0), setting)
    shown = gpu.settle(gpu.Check("speed", "shown", lambda _: 2.0), setting)
    nan = gpu.settle(gpu.Check("speed", "nan", lambda _: float("nan"), goal=1.0), setting)
    assert (wrong.passed, error.passed, shown.passed, nan.passed) == (False, False, None, False)
    assert error.error == "RuntimeError: no kernel" and "FAIL" in gpu.row(error)
    file, place = tmp_path / "gpu.json", gpu.where(setting)
    file.write_text(json.dumps({"where": place, "lines": [vars(wrong), vars(error)]}))
    assert gpu.kept(file, place) == [wrong]
    assert gpu.kept(file, place | {"torch": "other"}) == []


def test_a_kernel_that_sees_a_key_too_many_is_found(gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_correct = importlib.import_module("gpu_correct")
    setting, windows = gpu.Setting("cpu", True), gpu_correct.AWKWARD[1]
    assert gpu_correct.attention_error(windows, "gather", setting) < gpu_correct.EXACT
    mask = gpu_correct.inward_window_mask

    def wider(*args: object) -> torch.Tensor:
        seen = mask(*args)
        seen[0, -1] = True
        return seen

    monkeypatch.setattr(gpu_correct, "inward_window_mask", wider)
    assert gpu_correct.attention_error(windows, "gather", setting) > 100 * gpu_correct.EXACT
