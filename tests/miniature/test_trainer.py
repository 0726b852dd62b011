"""The miniature's trainer: resumed equals straight, errors are named, rates follow the schedule."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vibe_pipeline.miniature.trainer import Schedule, Task, rate_at, train


class Line(nn.Module):
    """Fits y = 2 x, with noise from torch's generator, which a resumed run must draw alike."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        target = 2 * batch.sum(1, keepdim=True) + 0.1 * torch.randn(len(batch), 1)
        return {"loss": (self.layer(batch).float() - target).square().mean()}


def optimizers(module: nn.Module) -> list[torch.optim.Optimizer]:
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


SCHEDULE = Schedule(steps=8, processes=1, warmup=2, save_every=3, log_every=2, seed=3)


def test_a_resumed_training_equals_a_straight_one(tmp_path: Path) -> None:
    straight = train(Task(Line, optimizers, batch), SCHEDULE, tmp_path / "straight")
    with pytest.raises(Exception, match="loss is nan at step 5, rank 0"):
        train(Task(Line, optimizers, Poisoned(5)), SCHEDULE, tmp_path / "killed")
    assert torch.load(tmp_path / "killed" / "checkpoint.pt", weights_only=True)["step"] == 3
    resumed = train(Task(Line, optimizers, batch), SCHEDULE, tmp_path / "killed")
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(resumed[k], straight[k]) for k in straight)
    whole = [torch.load(tmp_path / f / "checkpoint.pt", weights_only=True)["module"] for f in ("straight", "killed")]
    assert all(torch.equal(whole[0][k], whole[1][k]) for k in whole[0])
    assert not torch.equal(whole[0]["layer.weight"], straight["layer.weight"])  # the average lags behind
    lines = [json.loads(line) for line in (tmp_path / "straight" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    torch.manual_seed(SCHEDULE.seed)
    weights = [Line().layer.weight.detach(), whole[0]["layer.weight"]]  # at the start, at the end; the truth is 2
    assert float((weights[1] - 2).abs().mean()) < float((weights[0] - 2).abs().mean())


@pytest.mark.parametrize(("step", "rate"), [(0, 0.1), (9, 1.0), (54, 1.0), (60, 40 / 45), (99, 1 / 45)])
def test_rates_warm_up_and_fall_to_zero(step: int, rate: float) -> None:
    assert rate_at(step, Schedule(steps=100, warmup=10, decay=0.45)) == pytest.approx(rate)
