"""Training through the stages' public functions against plain torch: every step from its formulas.

Written out here are the order of images, noise and sigmas of a step, the bell, the losses, dense GCLF of the NATIVE
window, clipping of the gradient's norm, and AdamW with decoupled decay; from the package come only the transformer and
the adapter's first weights.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from tests.dense_gclf import install_dense_gclf
from vibe_pipeline.diffusion import lora
from vibe_pipeline.experiment.adapters import AdapterParams
from vibe_pipeline.experiment.training import Stage1Params
from vibe_pipeline.training.job import TrainingJob
from vibe_pipeline.training.stages import stage1_job, stage2_job, train

LEARNING_RATE, DECAY, CLIP, SHIFT, SEED, BATCH = 1e-2, 0.3, 0.002, 3.0, 4, 2
ROW = {
    "lora": {"rank": 2, "alpha": 3},
    "optimiser": {"learning_rate": LEARNING_RATE, "weight_decay": DECAY, "clip_norm": CLIP},
    "batch_size": BATCH,
    "sigma_shift": SHIFT,
    "seed": SEED,
    "autocast": False,
    "checkpoint_every": 1,
    "log_every": 1,
}
TRAINED = 6  # images of the cache's 8
NATIVE_HALF = 2 // 2, 3 // 2  # of the native 2 x 3 tokens; half of what is trained on would see everything
STAGE2 = {"label": "d2", "start": "base"}
OBJECTIVES = {"hfato, latent": {}, "hfato, pixel": {"degradation": {"kind": "pixel"}}}


class Killed(Exception):
    """What a log line's receiver raises."""


def levels(u: Tensor) -> Tensor:
    return SHIFT * u / (1 + (SHIFT - 1) * u)


def draw(step: int, shape: tuple[int, ...]) -> tuple[list[int], Tensor, Tensor, Tensor]:
    """Images, noise, sigmas and weights of a step."""
    epoch, place = divmod(step, TRAINED // BATCH)
    images = np.random.default_rng([SEED, epoch]).permutation(TRAINED)[place * BATCH : (place + 1) * BATCH]
    generator = torch.Generator().manual_seed(SEED * 1_000_003 + step)
    noise = torch.randn((BATCH, *shape), generator=generator)
    grid = levels(torch.arange(1000, 0, -1, dtype=torch.float64) / 1000)
    sigma = grid[torch.randint(1000, (BATCH,), generator=generator)]
    bell = torch.exp(-2 * ((1000 * grid - 500) / 1000) ** 2)
    weight = (torch.exp(-2 * ((1000 * sigma - 500) / 1000) ** 2) - bell.min()) / (bell.mean() - bell.min())
    return images.tolist(), noise, sigma.float(), weight.float()


def velocity(model: Callable[..., Any], x: Tensor, sigma: Tensor, text: Tensor) -> Tensor:
    return model(x, 1000 * sigma, text, return_dict=False)[0]


def stage1_loss(model: Callable[..., Any], parts: dict[str, Tensor], noise: Tensor, sigma: Tensor) -> Tensor:
    """One value an image: ||v - (eps - x0)||^2 on the low-resolution latents."""
    s, x0 = sigma.view(-1, 1, 1, 1, 1), parts["low"]
    v = velocity(model, (1 - s) * x0 + s * noise, sigma, parts["text"])
    return (v - (noise - x0)).square().mean((1, 2, 3, 4))


def hfato(model: Callable[..., Any], parts: dict[str, Tensor], noise: Tensor, sigma: Tensor, kind: str) -> Tensor:
    """One value an image: ||x0_hat - x0||^2, from the degraded latent."""
    s, x0 = sigma.view(-1, 1, 1, 1, 1), parts["high"]
    small = F.interpolate(x0[:, :, 0], scale_factor=0.5, mode="bilinear", align_corners=False)
    latent = F.interpolate(small, size=x0.shape[-2:], mode="bilinear", align_corners=False)[:, :, None]
    x = (1 - s) * (parts["pixel"] if kind == "pixel" else latent) + s * noise
    return (x - s * velocity(model, x, sigma, parts["text"]) - x0).square().mean((1, 2, 3, 4))


def plain_training(
    transformer: torch.nn.Module, cache: dict[str, Any], steps: int, part: str, loss: Callable[..., Tensor]
) -> tuple[dict[str, Tensor], list[float], list[float]]:
    """The adapter after some steps, its losses and the gradient's norms before clipping."""
    lora.add_adapter(transformer, "plain", 2, 3, Stage1Params().lora.targets, SEED)
    weights = list(lora.adapter_parameters(transformer, "plain").values())
    first, second = ([torch.zeros_like(w) for w in weights] for _ in range(2))
    latents, texts = load_file(cache["images"][0]["shard"]), load_file(cache["images"][0]["text_shard"])
    losses, norms = [], []
    for step in range(steps):
        images, noise, sigma, weight = draw(step, latents[f"00.{part}"].shape)
        parts = {p: torch.stack([latents[f"{i:02d}.{p}"].float() for i in images]) for p in ("low", "high", "pixel")}
        parts["text"] = torch.stack([texts[f"{i:02d}.text"] for i in images])
        value = (weight * loss(transformer, parts, noise, sigma)).mean()
        gradients = torch.autograd.grad(value, weights)
        norm = torch.sqrt(sum(g.square().sum() for g in gradients))
        losses.append(value.item())
        norms.append(norm.item())
        with torch.no_grad():
            for w, g, m, v in zip(weights, gradients, first, second, strict=True):
                g = g * min(1.0, CLIP / norm.item())
                m.mul_(0.9).add_(0.1 * g)
                v.mul_(0.999).add_(0.001 * g.square())
                change = (m / (1 - 0.9 ** (step + 1))) / ((v / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
                w.mul_(1 - LEARNING_RATE * DECAY).sub_(LEARNING_RATE * change)
    return lora.adapter_state(transformer, "plain"), losses, norms


def trained(job: TrainingJob, killed_after: int | None) -> tuple[Any, list[float]]:
    """The adapter and the losses, straight or in two runs."""
    logged: dict[int, float] = {}

    def note(records: list[dict[str, float]]) -> None:
        logged.update({int(r["step"]): r["loss"] for r in records})
        if killed_after is not None and max(logged) > killed_after and len(records) == 1:
            raise Killed

    if killed_after is not None:
        with pytest.raises(Killed):
            train(job, note)
        killed_after = None
    manifest = train(job, note)
    adapter = {k.removeprefix("transformer."): v for k, v in load_file(manifest.path).items()}
    return adapter, [logged[step] for step in sorted(logged)]


def require_equal(ours: tuple[Any, list[float]], theirs: tuple[dict[str, Tensor], list[float], list[float]]) -> None:
    state, losses, norms = theirs
    assert min(norms) > 1.5 * CLIP  # every step is clipped, each by its own factor
    assert len(norms) < 4 or max(norms) > 1.2 * min(norms)
    assert ours[1] == pytest.approx(losses, rel=1e-5)
    assert ours[0].keys() == state.keys()
    for name, value in state.items():
        torch.testing.assert_close(ours[0][name], value, rtol=0, atol=2e-5, msg=lambda said, n=name: f"{n}: {said}")


RUNS = [(1, None), (2, None), (4, None), (4, 2)]
"""Steps, and after how many a run is killed and resumed; the fourth step is of the second epoch."""


@pytest.mark.parametrize(("steps", "killed_after"), RUNS)
def test_stage_1_is_the_velocity_loss_under_full_attention(tiny, make_cache, tmp_path, steps, killed_after) -> None:
    cache, row = make_cache(tiny.transformer().config.in_channels), Stage1Params(**ROW, steps=steps)
    ours = trained(stage1_job("d", cache, tiny.model(), row, tmp_path), killed_after)
    require_equal(ours, plain_training(tiny.transformer(), cache, steps, "low", stage1_loss))


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(("steps", "killed_after"), RUNS)
def test_stage_2_is_hfato_under_gclf_of_the_native_window(
    tiny, make_cache, tmp_path, objective: str, steps: int, killed_after: int | None
) -> None:
    cache = make_cache(tiny.transformer().config.in_channels)
    row = AdapterParams(**ROW, **STAGE2, **OBJECTIVES[objective], steps=steps)
    ours = trained(stage2_job("d", cache, None, tiny.model(), row, tmp_path), killed_after)
    transformer = tiny.transformer()
    install_dense_gclf(transformer, (1, 4, 6), NATIVE_HALF, 2)
    kind = row.degradation.kind
    theirs = plain_training(transformer, cache, steps, "high", lambda *a: hfato(*a, kind))
    require_equal(ours, theirs)


def test_autocast_is_bfloat16_and_the_held_out_loss_is_of_the_held_out_images(wan21, make_cache, tmp_path) -> None:
    cache = make_cache()
    row = Stage1Params(**ROW | {"autocast": True}, steps=1)
    logged: list[dict[str, float]] = []
    manifest = train(stage1_job("d", cache, wan21.model(), row, tmp_path), logged.extend)

    def in_16_bit(*arguments: Any) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return stage1_loss(*arguments).float()

    _, rounded, _ = plain_training(wan21.transformer(), cache, 1, "low", in_16_bit)
    _, exact, _ = plain_training(wan21.transformer(), cache, 1, "low", stage1_loss)
    assert abs(rounded[0] / exact[0] - 1) > 1e-5
    assert logged[0]["loss"] == pytest.approx(rounded[0], rel=1e-6)

    transformer = wan21.transformer()
    lora.load_adapter(transformer, manifest.path, "d")
    latents, texts = load_file(cache["images"][0]["shard"]), load_file(cache["images"][0]["text_shard"])
    parts = {"low": torch.stack([latents[f"{i:02d}.low"].float() for i in (6, 7)])}
    parts["text"] = torch.stack([texts[f"{i:02d}.text"] for i in (6, 7)])
    noise = torch.randn(parts["low"].shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        losses = [stage1_loss(transformer, parts, noise, torch.full((2,), s)).mean() for s in (0.2, 0.4, 0.6, 0.8)]
    assert manifest.held_out_loss == pytest.approx(float(torch.stack(losses).mean()), rel=1e-5)
