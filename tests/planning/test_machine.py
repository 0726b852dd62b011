"""This machine as a device: what a plan says of it was measured on it, once."""

from pathlib import Path

import pytest
import torch

from vibe_pipeline.planning import machine
from vibe_pipeline.planning.architecture import load_architecture
from vibe_pipeline.planning.figures import Figures
from vibe_pipeline.planning.machine import measure_rates, named_device, this_machine


def test_rates_are_operations_over_the_seconds_that_they_took(tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the seconds, half the rate; and every rate is of something that ran."""
    calls: list[object] = []

    def took(call, device) -> float:
        calls.append(call())
        return seconds

    monkeypatch.setattr(machine, "_fastest", took)
    architecture, model = load_architecture(str(tiny.path)), tiny.model()
    seconds = 1.0
    slow = measure_rates(architecture, model)
    seconds = 0.5
    fast = measure_rates(architecture, model)
    assert len(calls) == 6
    assert set(slow) == {"transformer", "autocast", "vae"}
    assert all(slow[name] > 0 and fast[name] == pytest.approx(2 * slow[name]) for name in slow)


def test_the_measurement_is_made_once_and_used_by_what_computes(tiny, tmp_path: Path, monkeypatch) -> None:
    architecture, model = load_architecture(str(tiny.path)), tiny.model()
    figures = Figures(tmp_path)
    first = this_machine(architecture, model, figures)
    monkeypatch.setattr(machine, "measure_rates", lambda *_: pytest.fail("measured again"))
    assert this_machine(architecture, model, figures) == first
    assert first.teraflops("float32") == first.rates["transformer"] > 0
    assert first.teraflops("bfloat16") == first.rates["autocast"] > 0
    assert first.teraflops("float32", convolutions=True) == first.rates["vae"] > 0
    assert first.memory_gb > 1 and "this machine" in first.product


def test_this_is_the_gpu_of_the_table_where_the_model_runs_on_one(tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "NVIDIA H100 80GB HBM3")
    assert named_device("THIS", tiny.model(device="auto")) == "h100"
    assert named_device("this", tiny.model(device="cpu")) == "this"
    assert named_device("L40S", tiny.model(device="auto")) == "l40s"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "NVIDIA T4")
    with pytest.raises(ValueError, match=r"GPU is NVIDIA T4, whose rates are not known; name one: a100, h100"):
        named_device("this", tiny.model(device="auto"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert named_device("this", tiny.model(device="auto")) == "this"
