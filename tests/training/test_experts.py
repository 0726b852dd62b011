"""Training on a base of two experts: the low-noise one alone, at its own levels."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from vibe_pipeline.diffusion.models import load_transformer
from vibe_pipeline.experiment.adapters import AdapterParams
from vibe_pipeline.experiment.training import Stage1Params
from vibe_pipeline.io.manifests import AdapterManifest
from vibe_pipeline.training import stages, validation
from vibe_pipeline.training.distributed import Group, no_log
from vibe_pipeline.training.job import draw_batch
from vibe_pipeline.training.stages import stage1_job, stage2_job, train

SHAPE = {"lora": {"rank": 2, "alpha": 4}, "steps": 2, "batch_size": 2, "optimiser": {"learning_rate": 1e-2}}
STAGE1 = Stage1Params(**SHAPE)


def test_both_stages_train_the_low_noise_expert_alone(
    a14b, wan21, make_cache: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other is never loaded; what stage 2 finds frozen is transformer_2 with stage 1 in it."""
    found: list[dict[str, torch.Tensor]] = []

    def load(*args: Any, **named: Any) -> torch.nn.Module:
        transformer = load_transformer(*args, **named)
        found.append({name: value.clone() for name, value in transformer.state_dict().items()})
        return transformer

    monkeypatch.setattr(stages, "load_transformer", load)
    cache, model = make_cache(), a14b.model()
    first = train(stage1_job("modality", cache, model, STAGE1, tmp_path), no_log)
    second = train(stage2_job("full", cache, first, model, AdapterParams(label="f", **SHAPE), tmp_path), no_log)
    low = load_file(next((a14b.path / "transformer_2").glob("*.safetensors")))
    assert len(found) == 2 and all(torch.equal(state[name], low[name]) for state in found for name in low)
    for manifest in (first, second):
        assert manifest.part == "transformer_2" and len(load_file(manifest.path)) == 40
        again = AdapterManifest.read(manifest.path.with_name("manifest.json"))
        assert again.part == "transformer_2"
    other = stage1_job("modality", cache, wan21.model(), STAGE1, tmp_path)
    assert other.key != stage1_job("modality", cache, model, STAGE1, tmp_path).key and other.boundary is None


def test_levels_are_the_experts_own(a14b, make_cache: Callable, tmp_path: Path) -> None:
    """Of shift 5, 42 % of all draws lie above 0.875; a bridge's levels are lower, and its way is drawn whole."""
    cache = make_cache()
    row = AdapterParams(label="a", start="base", **SHAPE | {"batch_size": 6})
    job = stage2_job("a", cache, None, a14b.model(), row, tmp_path)
    assert (job.boundary, job.below) == (0.875, 0.875)
    everywhere = replace(job, boundary=None)
    ours, free = (
        torch.cat([draw_batch(j, Group(), step, list(range(6))).sigma for step in range(40)]) for j in (job, everywhere)
    )
    assert float(ours.max()) < 0.875 < float(free.max())
    bridge = AdapterParams(label="b", start="base", objective={"bridge": 1.0}, bridge={}, **SHAPE)
    assert stage2_job("b", cache, None, a14b.model(), bridge, tmp_path).below is None


def test_the_held_out_loss_is_taken_at_shares_of_them(a14b, make_cache: Callable, tmp_path: Path, monkeypatch) -> None:
    levels: list[float] = []

    def loss(self: Any, predict: Any, batch: Any, noise: Any, sigma: torch.Tensor, weight: Any) -> dict[str, float]:
        levels.append(float(sigma[0]))
        return {"loss": 0.0}

    monkeypatch.setattr("vibe_pipeline.training.job.StageLoss.__call__", loss)
    job = stage1_job("m", make_cache(), a14b.model(), STAGE1, tmp_path)
    validation.held_out_loss(job, a14b.transformer(), Group())
    assert sorted(set(levels)) == pytest.approx([0.175, 0.35, 0.525, 0.7])
