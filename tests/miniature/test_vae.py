"""The VAE's training: its optimizer, its batches, its terms; and that it learns."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from torch import nn

from tests.miniature.object_mask import object_mask
from vibe_pipeline.experiment.miniature import MiniatureParams
from vibe_pipeline.miniature.batches import draw_pictures
from vibe_pipeline.miniature.optimisers import ConvMuon
from vibe_pipeline.miniature.scene import Scene
from vibe_pipeline.miniature.vae import VaeObjective, VaeWeights, decode_chunks, vae_optimisers
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
    shapes = {tuple(draw_pictures(np.random.default_rng(i), 16, 9, 2).shape) for i in range(24)}
    assert shapes == {(8, 3, 1, 16, 16), (4, 3, 5, 16, 16), (2, 3, 9, 16, 16)}
    x = draw_pictures(np.random.default_rng(0), 16, 9, 2)
    torch.testing.assert_close(x, draw_pictures(np.random.default_rng(0), 16, 9, 2))
    assert x.min() >= -1 and x.max() <= 1 and x.std() > 0.05


def test_crops_mostly_see_the_object(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of crops of a third of the frame, far more show the object than the quarter or so that chance would give."""

    def masks(scene: Scene, height: int, width: int, frames: int, style: object) -> np.ndarray:
        return np.repeat(object_mask(scene, height, width, frames)[..., None], 3, -1)

    monkeypatch.setattr("vibe_pipeline.miniature.batches.render", masks)
    drawn = [draw_pictures(np.random.default_rng(i), 16, 5, 4) for i in range(12)]
    seen = np.mean([float((clip > 0).float().mean() > 0.05) for batch in drawn for clip in batch])
    assert seen > 0.7


def test_decoding_by_chunks_is_the_vaes_own_decoding() -> None:
    torch.manual_seed(0)
    vae = VaeObjective().vae.eval()
    z = 0.1 * torch.randn(1, vae.config.z_dim, 3, 4, 4)
    with torch.inference_mode():
        torch.testing.assert_close(decode_chunks(vae, z).clamp(-1, 1), vae.decode(z).sample)


def test_equivariance_is_measured_only_where_it_is_asked_for() -> None:
    x = draw_pictures(np.random.default_rng(1), 16, 5, 1)
    torch.manual_seed(0)
    plain, equal = VaeObjective(), VaeObjective(VaeWeights(equivariance=0.5))
    equal.load_state_dict(plain.state_dict())
    torch.manual_seed(0)
    without = plain(x)
    torch.manual_seed(0)
    found = equal(x)
    assert set(without) == {"loss", "reconstruction", "kl"}
    torch.testing.assert_close(found["loss"].detach(), without["loss"].detach() + 0.5 * found["apart"])
    assert found["apart"] > 0


def coded_as(codes: list[torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    """An encoder that gives one code after another, without noise."""
    left = iter(codes)

    def encode(x: torch.Tensor) -> torch.Tensor:
        mean = next(left)
        return torch.cat([mean, torch.full_like(mean, -30.0)], 1)

    return encode


def test_how_far_apart_is_the_formulas(monkeypatch: pytest.MonkeyPatch) -> None:
    """D averages squares of 2 x 2 and enlarges; every channel counts alike, whatever its scale."""
    torch.manual_seed(0)
    objective = VaeObjective(VaeWeights(equivariance=1.0))
    monkeypatch.setattr("vibe_pipeline.miniature.vae.decode_chunks", lambda vae, z: torch.zeros(2, 3, 1, 24, 24))
    x, z, enlarged = torch.rand(2, 3, 1, 24, 24), torch.randn(2, 4, 1, 6, 6), torch.randn(2, 4, 1, 6, 6)
    flat = nn.functional.interpolate(z[:, :, 0], scale_factor=0.5, mode="area")
    averaged = nn.functional.interpolate(flat, size=(6, 6), mode="bilinear", align_corners=False)[:, :, None]
    unit = z.std((0, 2, 3, 4), keepdim=True)
    wanted = ((averaged - enlarged) / unit).square().mean() / ((z - enlarged) / unit).square().mean()
    loud = torch.tensor([1.0, 10.0, 0.1, 3.0]).view(1, 4, 1, 1, 1)
    for scale in (1.0, loud):
        monkeypatch.setattr(objective.vae, "_encode", coded_as([scale * z, scale * enlarged]))
        torch.testing.assert_close(objective(x)["apart"], wanted)
    monkeypatch.setattr(objective.vae, "_encode", coded_as([z, averaged]))
    assert objective(x)["apart"] < 1e-10


def test_the_picture_is_shrunk_to_a_third_and_enlarged(monkeypatch: pytest.MonkeyPatch) -> None:
    objective, seen = VaeObjective(VaeWeights(equivariance=1.0)), []
    encode = objective.vae._encode
    monkeypatch.setattr(objective.vae, "_encode", lambda x: seen.append(x) or encode(x))
    waves = (0.8 * torch.sin(cycles * torch.arange(48.0)) for cycles in (2.5, 0.1))
    fine, slow = (wave.expand(1, 3, 1, 48, 48) for wave in waves)
    objective(fine)
    objective(slow)
    assert torch.equal(seen[0], fine) and seen[1].abs().mean() < 0.1  # the small picture holds 1.05 radians a pixel
    torch.testing.assert_close(seen[3][..., 4:-4], slow[..., 4:-4], atol=0.02, rtol=0)


def test_training_goes_on_from_a_trained_vae(tmp_path: Path) -> None:
    VaeObjective().vae.save_pretrained(tmp_path / "base/vae")
    params = MiniatureParams(size=16, frames=5, vae_steps=1, start=tmp_path / "base")
    job = vae_job(params, tmp_path / "work")
    first, last = AutoencoderKLWan.from_pretrained(tmp_path / "base/vae"), job.build()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), last.vae.parameters(), strict=True))
    gentle, usual = (j.optimisers(last)[0].param_groups[0]["lr"] for j in (job, vae_job(MiniatureParams(), tmp_path)))
    assert gentle < usual


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
    x = draw_pictures(np.random.default_rng(1), 16, 5, 1)
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
