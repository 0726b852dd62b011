"""The training loop: resuming, its records, its errors."""

import io
import math
import shutil
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file
from torch import Tensor
from torch._dynamo.utils import counters

from vibe_pipeline.diffusion import lora
from vibe_pipeline.experiment.adapters import AdapterParams
from vibe_pipeline.experiment.training import OptimiserParams, Stage1Params
from vibe_pipeline.images.cache import LatentCache
from vibe_pipeline.runtime.deadline import DEADLINE, OutOfTimeError
from vibe_pipeline.training import checkpoint, loop
from vibe_pipeline.training import optim as optimiser
from vibe_pipeline.training.checkpoint import load_checkpoint
from vibe_pipeline.training.distributed import Group, OnLog, no_log
from vibe_pipeline.training.job import StageLoss, TrainingJob
from vibe_pipeline.training.loop import train_adapter
from vibe_pipeline.training.optim import learning_rate_factor
from vibe_pipeline.training.stages import STAGE1_LOSS, stage2_job, train
from vibe_pipeline.training.validation import held_out_loss

ROW = Stage1Params(
    lora={"rank": 2, "alpha": 3},
    optimiser={"learning_rate": 1e-2, "warmup_steps": 2, "schedule": "cosine"},
    steps=7,
    batch_size=2,
    checkpoint_every=2,
    log_every=3,
    seed=5,
)
SPEEDS = ["images_per_second", "tokens_per_second", "teraflops_per_second", "peak_memory_gb", "seconds"]


class Killed(Exception):
    """What a test raises to stop a run."""


@dataclass(frozen=True)
class Trial:
    """A job, and a transformer with its adapter."""

    job: TrainingJob
    transformer: WanTransformer3DModel

    def train(self, on_log: OnLog = no_log, group: Group | None = None) -> pd.DataFrame:
        return train_adapter(self.job, self.transformer, group, on_log)

    def replace(self, **changes: Any) -> "Trial":
        return Trial(replace(self.job, **changes), self.transformer)

    def state(self) -> dict[str, Tensor]:
        return lora.adapter_state(self.transformer, "d1")


@pytest.fixture
def trial(wan21, make_cache, tmp_path: Path) -> Callable[..., Trial]:
    """A job with a fresh transformer, in a folder of tmp_path."""
    manifest = make_cache()
    images, held_out = LatentCache(manifest), LatentCache(manifest, held_out=True)

    def build(folder: str, **changes: object) -> Trial:
        transformer, row = wan21.transformer(), ROW.model_copy(update=changes)
        lora.add_adapter(transformer, "d1", row.lora.rank, row.lora.alpha, row.lora.targets, row.seed)
        home = tmp_path / folder
        home.mkdir(exist_ok=True)
        job = TrainingJob(
            name="d1",
            key="k",
            folder=home,
            model=wan21.model(),
            expand_timesteps=False,
            row=row,
            images=images,
            held_out=held_out,
            loss=STAGE1_LOSS,
        )
        return Trial(job, transformer)

    return build


@dataclass(frozen=True)
class FailingLoss(StageLoss):
    """Goes wrong at a call, counted from this start."""

    at: int = 0
    error: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict
    calls: list[int] = field(default_factory=list)

    def __call__(self, *args: Any) -> dict[str, Tensor]:
        self.calls.append(1)
        losses = super().__call__(*args)
        return self.error(losses) if len(self.calls) == self.at + 1 else losses


def failing(trial: Trial, at: int, error: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Trial:
    """The trial with a loss that goes wrong at a call."""
    loss = trial.job.loss
    return trial.replace(loss=FailingLoss(loss.part, loss.objective, at=at, error=error))


def calls_before(job: TrainingJob, step: int) -> int:
    """How often the loss is called before a step: in chunks, and in validations of one chunk at four sigmas."""
    chunks = -(-job.row.batch_size // job.chunk(1))
    validations = step // job.row.validate_every if job.row.validate_every else 0
    return step * chunks + validations * 4


def kill(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    raise Killed


VARIANTS = {
    "plain": {"autocast": False},
    "bfloat16": {"autocast": True},
    "average and micro-batches": {"ema_decay": 0.7, "micro_batch": 1, "autocast": False},
    "checkpointing": {"gradient_checkpointing": True, "autocast": True, "sigma_sampling": "logit_normal"},
    "validation": {"validate_every": 2, "ema_decay": 0.7, "loss_weighting": "uniform"},
}


@pytest.mark.parametrize(("variant", "killed_at"), [*((v, 5) for v in VARIANTS), ("plain", 1), ("bfloat16", 4)])
def test_a_resumed_run_equals_a_straight_one_bit_for_bit(trial, variant: str, killed_at: int) -> None:
    changes = VARIANTS[variant]
    straight = trial("straight", **changes)
    expected = straight.train()
    with pytest.raises(Killed):
        failing(trial("killed", **changes), calls_before(straight.job, killed_at), kill).train()
    assert (straight.job.folder.parent / "killed" / "checkpoint.pt").exists() == (killed_at >= 2)
    again: list[dict] = []
    resumed = trial("killed", **changes)
    records = resumed.train(again.extend)
    pd.testing.assert_frame_equal(records.drop(columns=SPEEDS), expected.drop(columns=SPEEDS), check_exact=True)
    assert [r["step"] for r in again] == expected["step"].tolist()  # the new MLflow run has the whole curve
    assert expected["step"].tolist() == ([2, 3, 4, 6, 7] if variant == "validation" else [3, 6, 7])
    ours, theirs = (j.state() for j in (resumed, straight))
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    assert max(float(v.abs().max()) for k, v in ours.items() if "lora_B" in k) > 0


def test_spent_hours_keep_the_very_step(trial, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = trial("straight", checkpoint_every=100)
    expected = straight.train()

    def spend(losses: dict[str, Tensor]) -> dict[str, Tensor]:
        monkeypatch.setenv(DEADLINE, "0")
        return losses

    with pytest.raises(OutOfTimeError, match="kept: d1 up to step 4 of 7"):
        failing(trial("spent", checkpoint_every=100), calls_before(straight.job, 3), spend).train()
    monkeypatch.delenv(DEADLINE)
    resumed = trial("spent", checkpoint_every=100)
    records = resumed.train()
    pd.testing.assert_frame_equal(records.drop(columns=SPEEDS), expected.drop(columns=SPEEDS), check_exact=True)
    ours, theirs = (j.state() for j in (resumed, straight))
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)


def test_only_the_adapter_learns_and_the_loss_falls(trial) -> None:
    one = trial("one", steps=30, log_every=10, seed=1)
    constant = ROW.optimiser.model_copy(update={"schedule": "constant"})
    one = one.replace(row=one.job.row.model_copy(update={"optimiser": constant}))
    before = {k: v.clone() for k, v in one.transformer.state_dict().items()}
    records = one.train()
    changed = {k for k, v in one.transformer.state_dict().items() if not torch.equal(v, before[k])}
    assert changed
    assert all("lora_" in k for k in changed)
    assert records["loss"].iloc[-1] < records["loss"].iloc[0]
    assert not one.transformer.training
    assert (records["images_per_second"] > 0).all()
    # 2 x 3 tokens an image.
    assert (records["tokens_per_second"] / records["images_per_second"]).tolist() == pytest.approx([6.0] * 3)


def test_the_seed_decides_the_run(trial) -> None:
    losses = [trial(f"s{i}", steps=3, seed=seed).train()["loss"].tolist() for i, seed in enumerate((5, 5, 6))]
    assert losses[0] == losses[1] != losses[2]


def not_a_number(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"loss": losses["loss"] * math.nan}


def infinite_gradient(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    losses["loss"].register_hook(lambda g: g * math.inf)
    return losses


@pytest.mark.parametrize(("error", "what"), [(not_a_number, "loss is nan"), (infinite_gradient, "gradient norm is")])
@pytest.mark.parametrize("clip", [1.0, None])
def test_a_loss_that_is_not_finite_names_step_and_images_and_keeps_the_checkpoint(trial, error, what, clip) -> None:
    one = trial("nan", optimiser=ROW.optimiser.model_copy(update={"clip_norm": clip}))
    with pytest.raises(FloatingPointError, match=rf"d1: {what}.* at step 3, images \['\d\d', '\d\d'\]"):
        failing(one, 3, error).train()
    state = load_checkpoint(one.job.folder)
    assert state["step"] == 2
    assert all(torch.isfinite(v).all() for v in state["adapter"].values())


def test_a_damaged_checkpoint_is_named(trial) -> None:
    one = trial("damaged")
    (one.job.folder / "checkpoint.pt").write_bytes(b"PK\x03\x04 not a checkpoint")
    with pytest.raises(ValueError, match=r"checkpoint\.pt is damaged.*delete it"):
        one.train()


def test_more_processes_than_images_a_step_are_refused(trial) -> None:
    with pytest.raises(ValueError, match="batch_size 2 leaves some of 3 processes"):
        trial("group").train(group=Group(rank=0, size=3))


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [("constant", 0, 0.25), ("constant", 3, 1.0), ("constant", 99, 1.0), ("cosine", 50, 0.5), ("cosine", 100, 0.0)],
)
def test_learning_rates(schedule: str, step: int, expected: float) -> None:
    row = Stage1Params(steps=100, optimiser={"warmup_steps": 4, "schedule": schedule})
    assert learning_rate_factor(step, row) == pytest.approx(expected)


def test_the_optimiser_follows_the_schedule(trial, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    step = loop.torch.optim.AdamW.step

    def spy(self, *args, **kwargs):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(loop.torch.optim.AdamW, "step", spy)
    one = trial("rates", steps=4)
    one.train()
    assert rates == pytest.approx([1e-2 * learning_rate_factor(i, one.job.row) for i in range(4)])
    assert rates[0] == pytest.approx(0.5e-2)


def test_validation_does_not_change_the_training(trial) -> None:
    """Nor does a hook that draws random numbers and runs the transformer; it sees the averaged adapter."""
    plain, watched, seen = trial("plain", ema_decay=0.5), trial("watched", ema_decay=0.5, validate_every=2), []

    def look(transformer, step: int) -> None:
        assert not transformer.training
        torch.manual_seed(99)
        latent, text = torch.randn(1, 16, 1, 4, 6), torch.randn(1, 12, 64)
        assert not transformer(latent, torch.ones(1), text, return_dict=False)[0].requires_grad
        seen.append((step, deepcopy(lora.adapter_state(transformer, "d1"))))

    plain.train()
    records = watched.replace(on_validate=look).train()
    ours, theirs = (j.state() for j in (watched, plain))
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    assert [s for s, _ in seen] == [2, 4, 6, 7] == records.dropna()["step"].tolist()
    assert all(torch.equal(seen[-1][1][k], v) for k, v in ours.items())
    expected = held_out_loss(watched.job, watched.transformer, Group())
    assert records["validation_loss"].iloc[-1] == expected


def test_clips_that_fail_lose_no_step_and_are_made_by_who_goes_on(trial) -> None:
    """They take long on a GPU, and may fail for want of memory or of time."""
    settings = {"validate_every": 2, "checkpoint_every": 100}
    straight = trial("straight", **settings)
    expected = straight.train()
    shown: list[int] = []

    def fail(transformer: torch.nn.Module, step: int) -> None:
        if step == 4:
            raise MemoryError

    with pytest.raises(MemoryError):
        trial("failed", **settings).replace(on_validate=fail).train()
    resumed = trial("failed", **settings).replace(on_validate=lambda transformer, step: shown.append(step))
    records = resumed.train()
    assert shown == [4, 6, 7]
    pd.testing.assert_frame_equal(records.drop(columns=SPEEDS), expected.drop(columns=SPEEDS), check_exact=True)
    ours, theirs = (j.state() for j in (resumed, straight))
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)


def test_the_average_is_what_is_kept_and_the_raw_weights_are_what_resumes(trial) -> None:
    decay, states = 0.6, []
    one = trial("ema", ema_decay=decay, checkpoint_every=1)
    save = checkpoint.save_checkpoint
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            checkpoint, "save_checkpoint", lambda state, folder: states.append(deepcopy(state)) or save(state, folder)
        )
        one.train()
    raw = trial("raw")
    raw.train()
    final = raw.state()
    average = {k: v.clone() for k, v in states[0]["adapter"].items()}
    for n, weights in enumerate([*(s["adapter"] for s in states[1:]), final], start=1):
        share = min(decay, (1 + n) / (10 + n))
        average = {k: share * average[k] + (1 - share) * v for k, v in weights.items()}
    kept = one.state()
    for key, value in average.items():
        torch.testing.assert_close(kept[key], value)
    assert any(not torch.allclose(kept[k], final[k], atol=1e-4) for k in kept)


@pytest.mark.parametrize("style", ["wan21", "wan22"])
def test_gradient_checkpointing_changes_nothing(request, make_cache, tmp_path, style: str) -> None:
    states = [
        trained(request.getfixturevalue(style), make_cache, tmp_path, {"gradient_checkpointing": on}) for on in (0, 1)
    ]
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, rtol=0, atol=0)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on the CPU needs g++")
def test_compiled_blocks_train_to_the_same_adapter(trial) -> None:
    few = ROW.lora.model_copy(update={"targets": ("to_q", "ffn.net.2")})
    jobs = [trial(str(on), steps=2, autocast=False, lora=few, compile=on, validate_every=1) for on in (False, True)]
    counters.clear()
    losses = [one.train()["validation_loss"].tolist() for one in jobs]
    assert counters["stats"]["unique_graphs"] == 1  # of all blocks, and none for the held-out loss
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    plain, compiled = (one.state() for one in jobs)
    assert jobs[1].transformer.blocks[0]._compiled_call_impl is not None
    for key, value in plain.items():
        torch.testing.assert_close(compiled[key], value, rtol=1e-3, atol=1e-4)


def trained(tiny, make_cache, tmp_path: Path, changes: dict[str, Any]) -> dict[str, Tensor]:
    """A stage-2 adapter with GCLF attention, in 32 bit."""
    cache = make_cache(16 if tiny.token == 16 else 48)
    row = {"lora": {"rank": 2, "alpha": 3}, "optimiser": {"learning_rate": 1e-2}, "steps": 3, "batch_size": 2}
    row |= {"label": "full", "autocast": False} | changes
    folder = tmp_path / str(sorted(changes.items()))
    job = stage2_job("d2", cache, None, tiny.model(threads=1), AdapterParams(**row), folder)
    state = load_file(train(job, no_log).path)
    assert max(float(v.abs().max()) for k, v in state.items() if "lora_B" in k) > 1e-3
    return state


def test_8_bit_adamw_without_bitsandbytes_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setattr(optimiser.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install bitsandbytes, or use kind adamw"):
        optimiser.make_optimiser([], OptimiserParams(kind="adamw_8bit"))


def test_8_bit_adamw_follows_adamw_and_resumes_bit_for_bit() -> None:
    pytest.importorskip("bitsandbytes")

    def stepped(kind: str, resumed_at: int | None = None) -> Tensor:
        weight = torch.nn.Parameter(torch.zeros(128, 64))
        one = optimiser.make_optimiser([weight], OptimiserParams(kind=kind, learning_rate=1e-2))
        for i in range(6):
            if i == resumed_at:
                saved = io.BytesIO()
                torch.save(one.state_dict(), saved)
                saved.seek(0)
                one = optimiser.make_optimiser([weight], OptimiserParams(kind=kind, learning_rate=1e-2))
                one.load_state_dict(torch.load(saved, weights_only=True))
            weight.grad = torch.randn(128, 64, generator=torch.Generator().manual_seed(i))
            one.step()
        assert kind == "adamw" or one.state[weight]["state1"].dtype == torch.uint8
        return weight.detach()

    straight = stepped("adamw_8bit")
    torch.testing.assert_close(straight, stepped("adamw"), rtol=0, atol=5e-3)
    assert torch.equal(straight, stepped("adamw_8bit", 3))
