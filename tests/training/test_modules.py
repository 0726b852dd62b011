"""Training a whole module: resumed equals straight, errors are named, rates follow the schedule."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vibe_pipeline.runtime.deadline import DEADLINE, OutOfTimeError
from vibe_pipeline.training import modules
from vibe_pipeline.training.checkpoint import load_checkpoint, save_checkpoint
from vibe_pipeline.training.modules import ModuleJob, rate_at, train_module


class Line(nn.Module):
    """Fits y = 2 x, with noise from torch's generator, which a resumed run must draw alike."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        target = 2 * batch.sum(1, keepdim=True) + 0.1 * torch.randn(len(batch), 1)
        return {"loss": (self.layer(batch).float() - target).square().mean()}


class Quiet(Line):
    """The same without noise, which a GPU draws otherwise."""

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        return {"loss": (self.layer(batch).float() - 2 * batch.sum(1, keepdim=True)).square().mean()}


def optimisers(module: nn.Module) -> list[torch.optim.Optimizer]:
    return [torch.optim.AdamW([module.layer.weight], lr=0.05), torch.optim.SGD([module.layer.bias], lr=0.01)]


def batch(rng: np.random.Generator) -> Tensor:
    return torch.from_numpy(rng.normal(size=(8, 3)).astype(np.float32))


class Poisoned:
    """Draws batches; every one after the first `good` is NaN."""

    def __init__(self, good: int) -> None:
        self.left = good

    def __call__(self, rng: np.random.Generator) -> Tensor:
        self.left -= 1
        return batch(rng) * (1.0 if self.left >= 0 else float("nan"))


def job(folder: Path, **changes: Any) -> ModuleJob:
    settings: dict[str, Any] = {"steps": 8, "processes": 1, "warmup": 2, "save_every": 3, "log_every": 2, "seed": 3}
    settings |= {"build": Line, "batch": batch}
    return ModuleJob(name="line", folder=folder, optimisers=optimisers, **settings | changes)


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_a_resumed_training_equals_a_straight_one(tmp_path: Path) -> None:
    straight = weights_of(train_module(job(tmp_path / "straight")))
    with pytest.raises(FloatingPointError, match="line: loss is nan at step 5, process 0"):
        train_module(job(tmp_path / "killed", batch=Poisoned(5)))
    assert load_checkpoint(tmp_path / "killed")["step"] == 3
    resumed = weights_of(train_module(job(tmp_path / "killed")))
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(resumed[k], straight[k]) for k in straight)
    whole = [load_checkpoint(tmp_path / f)["module"] for f in ("straight", "killed")]
    assert all(torch.equal(whole[0][k], whole[1][k]) for k in whole[0])
    assert not torch.equal(whole[0]["layer.weight"], straight["layer.weight"])  # the average lags behind
    lines = [json.loads(line) for line in (tmp_path / "straight" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    torch.manual_seed(3)
    weights = [Line().layer.weight.detach(), whole[0]["layer.weight"]]  # at the start, at the end; the truth is 2
    assert float((weights[1] - 2).abs().mean()) < float((weights[0] - 2).abs().mean())


class Steep(torch.autograd.Function):
    """A finite loss whose gradient is not."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor) -> Tensor:
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * math.inf


class SteepLine(Line):
    """The last of eight steps has an infinite gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.left = 8

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        self.left -= 1
        losses = super().forward(batch)
        return losses if self.left else losses | {"loss": Steep.apply(losses["loss"])}


def test_a_gradient_that_is_not_finite_is_kept_by_no_checkpoint(tmp_path: Path) -> None:
    """Nor are its weights returned, where the loss itself was finite."""
    with pytest.raises(FloatingPointError, match=r"line: gradient norm is (nan|inf) at step 7, process 0"):
        train_module(job(tmp_path, build=SteepLine))
    assert load_checkpoint(tmp_path)["step"] == 6


def test_two_processes_take_the_mean_of_their_gradients(tmp_path: Path) -> None:
    """One step of SGD on the bias, by hand from both processes' batches; each draws its own."""
    trained = load_checkpoint(_trained(job(tmp_path, steps=1, warmup=0, processes=2, bf16=False, clip_norm=math.inf)))
    torch.manual_seed(3)
    gradients, first = [], Line().layer.bias.detach()
    for rank in range(2):
        torch.manual_seed(3)
        line, rng = Line(), np.random.default_rng([3, 0, rank])
        torch.manual_seed(int(rng.integers(2**62)))
        line(batch(rng))["loss"].backward()
        gradients.append(line.layer.bias.grad)
    assert not torch.equal(*gradients)
    torch.testing.assert_close(trained["module"]["layer.bias"], first - 0.01 * sum(gradients) / 2)


def _trained(one: ModuleJob) -> Path:
    train_module(one)
    return one.folder


def test_a_checkpoint_of_another_training_is_named_with_the_way_out(tmp_path: Path) -> None:
    save_checkpoint({"step": 3, "module": {}, "ema": {}}, tmp_path)
    with pytest.raises(ValueError, match=r"checkpoint\.pt is of another training .*delete it and run again"):
        train_module(job(tmp_path))


def test_spent_hours_keep_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DEADLINE, "0")
    with pytest.raises(OutOfTimeError, match="line up to step 1 of 8"):
        train_module(job(tmp_path))
    assert load_checkpoint(tmp_path)["step"] == 1


def test_seconds_end_a_training_and_its_rate_falls_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock of one second a question: asked when it begins and after every step."""
    clock = iter(range(100))
    monkeypatch.setattr(modules.time, "monotonic", lambda: float(next(clock)))
    bounded = job(tmp_path, steps=1000, seconds=6.0, log_every=1, save_every=4)
    trained = weights_of(train_module(bounded))
    saved = load_checkpoint(tmp_path)
    assert (saved["step"], saved["spent"]) == (6, 6.0)
    assert [json.loads(line)["seconds"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [*range(1, 7)]
    again = weights_of(train_module(bounded))  # over is over
    assert load_checkpoint(tmp_path)["step"] == 6 and all(torch.equal(again[k], trained[k]) for k in trained)
    rates = [rate_at(500, bounded, spent) for spent in (0, 3, 5, 6, 7)]
    assert rates == pytest.approx([1, 1, (1 / 6) / 0.45, 0, 0])


def test_seconds_are_of_one_clock() -> None:
    with pytest.raises(ValueError, match="line: seconds bound a training of one process, its clock; there are 2"):
        job(Path(), seconds=5.0, processes=2)


def test_what_is_kept_has_the_averaged_weights(tmp_path: Path) -> None:
    kept: list[dict[str, Tensor]] = []
    last = weights_of(train_module(job(tmp_path / "kept", keep=lambda module: kept.append(weights_of(module)))))
    plain = weights_of(train_module(job(tmp_path / "plain")))
    assert len(kept) == 3 and all(torch.equal(kept[-1][k], last[k]) and torch.equal(plain[k], last[k]) for k in last)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_trains_the_same(tmp_path: Path) -> None:
    plain = {"bf16": False, "build": Quiet}
    there, here = (
        weights_of(train_module(job(tmp_path / d, device=torch.device(d), **plain))) for d in ("cuda", "cpu")
    )
    assert all(value.device.type == "cpu" for value in there.values())
    for name, value in here.items():
        torch.testing.assert_close(there[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("step", "rate"), [(0, 0.1), (9, 1.0), (54, 1.0), (60, 40 / 45), (99, 1 / 45)])
def test_rates_warm_up_and_fall_to_zero(step: int, rate: float) -> None:
    assert rate_at(step, job(Path(), steps=100, warmup=10, decay=0.45)) == pytest.approx(rate)
