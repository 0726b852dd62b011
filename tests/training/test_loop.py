"""The training loop: resuming, its records, its errors."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor

from vibe_pipeline.config import Stage1Params
from vibe_pipeline.diffusion import adapters as lora
from vibe_pipeline.images.cache import LatentCache
from vibe_pipeline.training import loop
from vibe_pipeline.training.loop import Job, learning_rate_factor, train_adapter
from vibe_pipeline.training.relay import stage1_loss

ROW = Stage1Params(
    lora={"rank": 2, "alpha": 3},
    optimiser={"learning_rate": 1e-2, "warmup_steps": 2, "schedule": "cosine"},
    steps=7,
    batch_size=2,
    checkpoint_every=2,
    log_every=3,
    seed=5,
)
SPEEDS = ["images_per_second", "tokens_per_second"]


class Killed(Exception):
    """What a test raises to stop a run."""


@pytest.fixture
def job(wan21, make_cache, tmp_path: Path) -> Callable[..., Job]:
    """A job with a fresh transformer, in a folder of tmp_path."""
    cache = LatentCache(make_cache())

    def build(folder: str, **changes: object) -> Job:
        transformer, row = wan21.transformer(), ROW.model_copy(update=changes)
        lora.add_adapter(transformer, "d1", row.lora.rank, row.lora.alpha, row.lora.targets, row.seed)
        home = tmp_path / folder
        home.mkdir(exist_ok=True)
        return Job("d1", transformer, cache, "low", stage1_loss, row, False, torch.device("cpu"), torch.float32, home)

    return build


def failing(job: Job, step: int, error: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Job:
    """The job with a loss that goes wrong at a step counted from this start."""
    calls: list[int] = []

    def loss(*args: object) -> dict[str, Tensor]:
        calls.append(1)
        losses = job.loss(*args)
        return error(losses) if len(calls) == step + 1 else losses

    return replace(job, loss=loss)


def kill(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    raise Killed


@pytest.mark.parametrize(("autocast", "killed_at"), [(False, 5), (True, 4), (False, 1)])
def test_a_resumed_run_equals_a_straight_one_bit_for_bit(job, autocast: bool, killed_at: int) -> None:
    straight = job("straight", autocast=autocast)
    expected = train_adapter(straight)
    with pytest.raises(Killed):
        train_adapter(failing(job("killed", autocast=autocast), killed_at, kill))
    assert (straight.folder.parent / "killed" / "checkpoint.pt").exists() == (killed_at >= 2)
    again: list[dict] = []
    resumed = replace(job("killed", autocast=autocast), on_log=again.extend)
    records = train_adapter(resumed)
    pd.testing.assert_frame_equal(records.drop(columns=SPEEDS), expected.drop(columns=SPEEDS), check_exact=True)
    assert (
        [r["step"] for r in again] == expected["step"].tolist() == [3, 6, 7]
    )  # the new MLflow run has the whole curve
    ours, theirs = (lora.adapter_state(j.transformer, "d1") for j in (resumed, straight))
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    assert max(float(v.abs().max()) for k, v in ours.items() if "lora_B" in k) > 0


def test_only_the_adapter_learns_and_the_loss_falls(job) -> None:
    one = job("one", steps=30, log_every=10, seed=1)
    one = replace(
        one,
        params=one.params.model_copy(update={"optimiser": ROW.optimiser.model_copy(update={"schedule": "constant"})}),
    )
    before = {k: v.clone() for k, v in one.transformer.state_dict().items()}
    records = train_adapter(one)
    changed = {k for k, v in one.transformer.state_dict().items() if not torch.equal(v, before[k])}
    assert changed
    assert all("lora_" in k for k in changed)
    assert records["loss"].iloc[-1] < records["loss"].iloc[0]
    assert not one.transformer.training
    assert (records["images_per_second"] > 0).all()
    # 2 x 3 tokens an image.
    assert (records["tokens_per_second"] / records["images_per_second"]).tolist() == pytest.approx([6.0] * 3)


def test_the_seed_decides_the_run(job) -> None:
    losses = [train_adapter(job(f"s{i}", steps=3, seed=seed))["loss"].tolist() for i, seed in enumerate((5, 5, 6))]
    assert losses[0] == losses[1] != losses[2]


def not_a_number(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"loss": losses["loss"] * math.nan}


def infinite_gradient(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    losses["loss"].register_hook(lambda g: g * math.inf)
    return losses


@pytest.mark.parametrize(("error", "what"), [(not_a_number, "loss is nan"), (infinite_gradient, "gradient norm is")])
@pytest.mark.parametrize("clip", [1.0, None])
def test_a_loss_that_is_not_finite_names_step_and_images_and_keeps_the_checkpoint(job, error, what, clip) -> None:
    one = job("nan", optimiser=ROW.optimiser.model_copy(update={"clip_norm": clip}))
    with pytest.raises(FloatingPointError, match=rf"d1: {what}.* at step 3, images \['\d\d', '\d\d'\]"):
        train_adapter(failing(one, 3, error))
    state = torch.load(one.folder / "checkpoint.pt", weights_only=True)
    assert state["step"] == 2
    assert all(torch.isfinite(v).all() for v in state["adapter"].values())


def test_a_damaged_checkpoint_is_named(job) -> None:
    one = job("damaged")
    (one.folder / "checkpoint.pt").write_bytes(b"PK\x03\x04 not a checkpoint")
    with pytest.raises(ValueError, match=r"checkpoint\.pt is damaged.*delete it"):
        train_adapter(one)


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [("constant", 0, 0.25), ("constant", 3, 1.0), ("constant", 99, 1.0), ("cosine", 50, 0.5), ("cosine", 100, 0.0)],
)
def test_learning_rates(schedule: str, step: int, expected: float) -> None:
    row = Stage1Params(steps=100, optimiser={"warmup_steps": 4, "schedule": schedule})
    assert learning_rate_factor(step, row) == pytest.approx(expected)


def test_the_optimiser_follows_the_schedule(job, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    step = loop.torch.optim.AdamW.step

    def spy(self, *args, **kwargs):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(loop.torch.optim.AdamW, "step", spy)
    one = job("rates", steps=4)
    train_adapter(one)
    assert rates == pytest.approx([1e-2 * learning_rate_factor(i, one.params) for i in range(4)])
    assert rates[0] == pytest.approx(0.5e-2)
