"""The VAE's training: its optimizer, its batches, its terms; and that it learns."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from torch import nn

from tests.miniature.object_mask import object_mask
from vibe_pipeline.experiment.miniature import MiniatureParams
from vibe_pipeline.miniature.optimisers import ConvMuon
from vibe_pipeline.miniature.scene import Scene
from vibe_pipeline.miniature.vae import VaeObjective, VaeWeights, decode_chunks, draw_batch, vae_optimisers
from vibe_pipeline.training.base_model import decoder_job, train_vae, vae_job
from vibe_pipeline.training.modules import train_module

SETTINGS = {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.0}


def test_muon_on_kernels_is_muon_on_their_matrices() -> None:
    torch.manual_seed(0)
    kernel = nn.Parameter(torch.randn(4, 3, 2, 2, 2))
    matrix = nn.Parameter(kernel.detach().clone().view(4, -1))
    ours, theirs = ConvMuon([kernel], **SETTINGS), torch.optim.Muon([matrix], **SETTINGS)
    for _ in range(3):
        gradient = torch.randn_like(kernel)
        kernel.grad, matrix.grad = gradient.clone(), gradient.reshape(4, -1).clone()
        ours.step()
        theirs.step()
        torch.testing.assert_close(kernel.detach().view(4, -1), matrix.detach())
        ours.zero_grad()
        assert kernel.grad is None
    assert not torch.equal(kernel, torch.zeros_like(kernel))


def test_every_parameter_has_one_optimizer() -> None:
    module = VaeObjective()
    muon, adamw = vae_optimisers(module, rate=1e-3, muon_rate=1e-3)
    chosen = [id(p) for p in muon.kernels] + [id(p) for g in adamw.param_groups for p in g["params"]]
    assert sorted(chosen) == sorted(id(p) for p in module.parameters())
    assert all(p.ndim >= 4 for p in muon.kernels) and len(muon.kernels) > 20


def test_batches_hold_stills_and_clips_of_both_lengths() -> None:
    shapes = {tuple(draw_batch(np.random.default_rng(i), 16, 9, 2).shape) for i in range(24)}
    assert shapes == {(8, 3, 1, 16, 16), (4, 3, 5, 16, 16), (2, 3, 9, 16, 16)}
    x = draw_batch(np.random.default_rng(0), 16, 9, 2)
    torch.testing.assert_close(x, draw_batch(np.random.default_rng(0), 16, 9, 2))
    assert x.min() >= -1 and x.max() <= 1 and x.std() > 0.05


def test_crops_mostly_see_the_object(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of crops of a third of the frame, far more show the object than the quarter or so that chance would give."""

    def masks(scene: Scene, height: int, width: int, frames: int, style: object) -> np.ndarray:
        return np.repeat(object_mask(scene, height, width, frames)[..., None], 3, -1)

    monkeypatch.setattr("vibe_pipeline.miniature.vae.render", masks)
    drawn = [draw_batch(np.random.default_rng(i), 16, 5, 4) for i in range(12)]
    seen = np.mean([float((clip > 0).float().mean() > 0.05) for batch in drawn for clip in batch])
    assert seen > 0.7


def test_decoding_by_chunks_is_the_vaes_own_decoding() -> None:
    torch.manual_seed(0)
    vae = VaeObjective().vae.eval()
    z = 0.1 * torch.randn(1, vae.config.z_dim, 3, 4, 4)
    with torch.inference_mode():
        torch.testing.assert_close(decode_chunks(vae, z).clamp(-1, 1), vae.decode(z).sample)


def test_equivariance_is_measured_only_where_it_is_asked_for() -> None:
    x = draw_batch(np.random.default_rng(1), 16, 5, 1)
    torch.manual_seed(0)
    plain, equal = VaeObjective(), VaeObjective(VaeWeights(equivariance=0.5))
    equal.load_state_dict(plain.state_dict())
    torch.manual_seed(0)
    without = plain(x)
    torch.manual_seed(0)
    found = equal(x)
    assert set(without) == {"loss", "reconstruction", "kl"}
    extra = 0.5 * (found["degraded"] + found["shrunk"])
    torch.testing.assert_close(found["loss"].detach(), without["loss"].detach() + extra)
    assert found["degraded"] > 0


def test_a_latent_that_shrinks_with_its_picture_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """With pixels averaged in tiles for a latent, degrading before or after is the same but for the camera's filter."""
    objective = VaeObjective(VaeWeights(equivariance=1.0))

    def tiles(x: torch.Tensor) -> torch.Tensor:
        mean = nn.functional.avg_pool3d(x, (1, 4, 4))
        return torch.cat([mean, torch.full_like(mean, -30.0)], 1)

    monkeypatch.setattr(objective.vae, "_encode", tiles)
    monkeypatch.setattr(
        "vibe_pipeline.miniature.vae.decode_chunks", lambda vae, z: z.repeat_interleave(4, -1).repeat_interleave(4, -2)
    )
    y, x = torch.meshgrid(torch.linspace(-1, 1, 48), torch.linspace(-1, 1, 48), indexing="ij")
    smooth = (0.5 * torch.sin(2 * x + y))[None, None, None].repeat(1, 3, 1, 1, 1)
    rough = torch.randn(1, 3, 1, 12, 12).repeat_interleave(4, -1).repeat_interleave(4, -2).clamp(-1, 1)
    assert objective(smooth)["degraded"] < 0.01
    assert objective(rough)["degraded"] > 0.2


def test_the_vae_learns_and_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    params = MiniatureParams(size=16, frames=5, vae_steps=8, processes=1)
    train_module(replace(vae_job(params, tmp_path), save_every=8, log_every=4))
    longer = params.model_copy(update={"vae_steps": 16})
    train_module(replace(vae_job(longer, tmp_path), log_every=4))
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records] == [4, 8, 12, 16]
    assert records[-1]["reconstruction"] < 0.8 * records[0]["reconstruction"]


def test_the_decoder_goes_on_alone_and_the_latents_stay(tmp_path: Path) -> None:
    params = MiniatureParams(size=16, frames=5, vae_steps=4, decoder_steps=4, processes=1)
    first, last = (
        AutoencoderKLWan.from_pretrained(f).float()
        for f in (train_vae(params, tmp_path), tmp_path / "vae_before_decoder")
    )
    x = draw_batch(np.random.default_rng(1), 16, 5, 1)
    with torch.inference_mode():
        z = first.encode(x).latent_dist.mode()
        torch.testing.assert_close(z, last.encode(x).latent_dist.mode(), rtol=0, atol=0)
        assert not torch.allclose(first.decode(z).sample, last.decode(z).sample)
    module = decoder_job(params, tmp_path / "vae_model", tmp_path / "decoder").build()
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    assert trained == {
        n for n, _ in module.named_parameters() if n.startswith(("vae.decoder.", "vae.post_quant_conv."))
    }


def test_the_recipe_trains_with_the_equivariance_that_is_asked_for(tmp_path: Path) -> None:
    job = vae_job(MiniatureParams(vae_equivariance=0.25), tmp_path)
    assert job.build().weights.equivariance == 0.25
    assert vae_job(MiniatureParams(), tmp_path).build().weights.equivariance == 0
