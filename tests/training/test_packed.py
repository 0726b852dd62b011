"""Training on packed images: one-by-one gradients, exact resumption, several processes, refusals, plan."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from vibe_pipeline.diffusion import lora
from vibe_pipeline.diffusion.attention import install_gclf
from vibe_pipeline.diffusion.flow import loss_weight
from vibe_pipeline.diffusion.models import velocity_predictor
from vibe_pipeline.diffusion.packing import install_packing
from vibe_pipeline.experiment.adapters import AdapterParams
from vibe_pipeline.experiment.training import Stage1Params
from vibe_pipeline.training.distributed import Group, no_log
from vibe_pipeline.training.packed import draw_packed, packed_steps, sequence_losses
from vibe_pipeline.training.stages import stage1_job, stage2_job, train

ROW: dict[str, Any] = {
    "label": "packed",
    "start": "base",
    "lora": {"rank": 2, "alpha": 4},
    "optimiser": {"learning_rate": 1e-2},
    "steps": 4,
    "batch_size": 2,
    "log_every": 2,
    "checkpoint_every": 1,
    "autocast": False,
    "packing": {"tokens": 60},  # two images of 24
}
PATCH = (1, 2, 2)


@pytest.fixture
def job_of(wan21, make_cache, tmp_path: Path) -> Callable[..., Any]:
    def make(folder: str = "one", **changes: Any) -> Any:
        row = AdapterParams(**(ROW | changes))
        cache = make_cache(count=11, buckets=2)
        return stage2_job("d2", cache, None, wan21.model(threads=1), row, tmp_path / folder)

    return make


@pytest.mark.parametrize("objective", [{"hfato": 1.0}, {"hfato": 0.5, "velocity": 1.0}], ids=str)
@pytest.mark.parametrize("kind", ["latent", "noise", "blur"])
def test_a_step_has_the_loss_and_gradient_of_its_images_one_by_one(wan21, job_of, objective: dict, kind: str) -> None:
    job = job_of(objective=objective, degradation={"kind": kind, "probability": 0.5})
    step = draw_packed(job, Group(), 3, next(packed_steps(job, PATCH, 3, tell=False)))
    alone, packed = wan21.transformer(), wan21.transformer()
    for transformer in (alone, packed):
        lora.add_adapter(transformer, "d2", 2, 4, job.row.lora.targets, 0)
        for n, weight in enumerate(lora.adapter_parameters(transformer, "d2").values()):
            torch.nn.init.normal_(weight, std=0.1, generator=torch.Generator().manual_seed(n))
        install_gclf(transformer, job.row.attention, (2, 3), always=True)
    install_packing(packed)
    images = [image for sequence in step.sequences for image in sequence]
    assert {image.noise.shape[-2:] for image in images} == {(8, 12), (12, 8)}
    assert sum(map(len, step.sequences)) == len(step.indices) == 4
    total = torch.zeros(())
    for sequence in step.sequences:
        losses, calls = sequence_losses(job, packed, torch.device("cpu"), sequence)
        (losses["loss"] * len(sequence) / 4).backward()
        total += losses["loss"].detach() * len(sequence) / 4
        assert calls == len(objective)
    expected = torch.zeros(())
    for image in images:
        parts = {name: value for name, value in image.parts.items() if name != "text"}
        predict = velocity_predictor(alone, image.parts["text"], False, torch.float32)
        weight = loss_weight("bell", image.sigma, 5.0, 0.0, 1.0)
        loss = job.loss(predict, parts, image.noise, image.sigma, weight)["loss"] / 4
        loss.backward()
        expected += loss.detach()
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-6)
    ours, theirs = (lora.adapter_parameters(t, "d2") for t in (packed, alone))
    for name, weight in theirs.items():
        assert weight.grad.abs().max() > 0
        torch.testing.assert_close(ours[name].grad, weight.grad, rtol=1e-4, atol=1e-6)


class Killed(Exception):
    """What a log line's receiver raises."""


def test_a_packed_training_that_was_killed_ends_as_a_straight_one(job_of, caplog) -> None:
    def kill(records: list[dict[str, float]]) -> None:
        raise Killed

    caplog.set_level("INFO")
    settings = {"gradient_checkpointing": True, "objective": {"hfato": 1.0}, "degradation": {"kind": "pixel"}}
    logged: list[dict[str, float]] = []
    straight = train(job_of("straight", **settings), logged.extend)
    assert "9 images packed by 2.0 into sequences of 48 tokens of at most 60" in caplog.text
    with pytest.raises(Killed):
        train(job_of("killed", **settings), kill)
    resumed = train(job_of("killed", **settings), no_log)
    assert resumed.path.read_bytes() == straight.path.read_bytes()
    assert max(float(v.abs().max()) for k, v in load_file(straight.path).items() if "lora_B" in k) > 1e-3
    plain = train(job_of("plain", packing=None, batch_size=4, steps=1), no_log)
    assert plain.key != straight.key and np.isfinite(straight.held_out_loss)
    assert logged[-1]["step"] == 4 and logged[-1]["tokens_per_second"] > 0


@pytest.mark.parametrize("kind", ["latent", "noise"])
def test_processes_share_a_steps_sequences_and_draw_alike(job_of, kind: str) -> None:
    """Five sequences over two: the shares put together are the step of one process, to the bit."""
    job = job_of(batch_size=5, degradation={"kind": kind, "probability": 0.5})
    sequences = next(packed_steps(job, PATCH, 0, tell=False))
    whole, *shares = (draw_packed(job, group, 0, sequences) for group in (Group(), Group(0, 2), Group(1, 2)))
    assert [len(share.sequences) for share in shares] == [2, 3]
    assert all(share.indices == whole.indices and share.shapes == whole.shapes for share in shares)
    for ours, theirs in zip(whole.sequences, shares[0].sequences + shares[1].sequences, strict=True):
        for mine, other in zip(ours, theirs, strict=True):
            assert mine.indices == other.indices and mine.parts.keys() == other.parts.keys()
            assert torch.equal(mine.noise, other.noise) and torch.equal(mine.sigma, other.sigma)
            assert all(torch.equal(value, other.parts[name]) for name, value in mine.parts.items())


def test_stage_1_packs_too(wan21, make_cache, tmp_path: Path) -> None:
    row = Stage1Params(**{k: v for k, v in ROW.items() if k not in ("label", "start")} | {"steps": 2})
    job = stage1_job("d1", make_cache(count=9, buckets=2), wan21.model(threads=1), row, tmp_path / "d1")
    assert train(job, no_log).final_loss > 0


def test_what_packing_does_not_go_with_is_refused() -> None:
    crop = {"crop": {"height": 64, "width": 64}, "attention": {"kind": "full"}}
    for changes, message in (
        ({"micro_batch": 1}, "leave micro_batch out"),
        ({"compile": True}, "set compile to false"),
        (crop, "crop and packing .* leave one of them out"),
    ):
        with pytest.raises(ValidationError, match=message):
            AdapterParams(**(ROW | changes))
