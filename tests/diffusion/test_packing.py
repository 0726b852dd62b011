"""Images of mixed sizes in one row of tokens: what each gives is what it gives alone."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor

from vibe_pipeline.diffusion import lora
from vibe_pipeline.diffusion.attention import GclfSettings, install_gclf
from vibe_pipeline.diffusion.models import velocity_predictor
from vibe_pipeline.diffusion.objectives import Sample, degrade, mixed_loss
from vibe_pipeline.diffusion.packing import as_row, from_row, install_packing, packed_losses, packed_predictor
from vibe_pipeline.experiment.attention import AttentionParams

SIZES = ((8, 12), (12, 8), (4, 4), (8, 12))
TEXT = torch.randn(4, 12, 64, generator=torch.Generator().manual_seed(5))
SIGMAS = [torch.tensor([s]) for s in (0.2, 0.5, 0.7, 0.9)]
KINDS = {
    "full": GclfSettings("full"),
    "gclf": GclfSettings("gclf", (1, 1)),
    "gclf, window alone in the deeper block": AttentionParams(
        kind="gclf", half_window=(1, 1), deep_from=1, deep_pool=0
    ),
    "window, scaled": GclfSettings("window", (1, 1), scale="freeswim"),
}


@dataclass(frozen=True)
class Pair:
    """The same transformer twice: as it is, and prepared for rows."""

    alone: torch.nn.Module
    packed: torch.nn.Module
    channels: int

    def latents(self, seed: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return [torch.randn(1, self.channels, 1, *size, generator=generator) for size in SIZES]


@pytest.fixture
def pair_of(tiny) -> Callable[[str], Pair]:
    def make(kind: str) -> Pair:
        both = tiny.transformer(), tiny.transformer()
        for transformer, always in zip(both, (False, True), strict=True):
            lora.add_adapter(transformer, "own", 2, 3, ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.2"), 1)
            for n, weight in enumerate(lora.adapter_parameters(transformer, "own").values()):
                torch.nn.init.normal_(weight, std=0.2, generator=torch.Generator().manual_seed(n))
            install_gclf(transformer, KINDS[kind], (2, 3), always=always)
        install_packing(both[1])
        return Pair(*both, both[0].config.in_channels)

    return make


def test_a_row_holds_patches_as_the_embedding_reads_them() -> None:
    x = torch.arange(2 * 4 * 6.0).view(1, 2, 1, 4, 6)
    row = as_row(x, (2, 2))
    assert row.shape == (1, 2, 1, 2, 12)
    for n, (i, j) in enumerate((i, j) for i in range(2) for j in range(3)):
        assert torch.equal(row[..., 2 * n : 2 * n + 2], x[..., 2 * i : 2 * i + 2, 2 * j : 2 * j + 2])
    assert torch.equal(from_row(row, (2, 3), (2, 2)), x)


@pytest.mark.parametrize("kind", KINDS)
def test_every_image_gives_what_it_gives_alone(pair_of, kind: str) -> None:
    """Own positions, own keys, own caption, own noise level."""
    pair = pair_of(kind)
    latents = pair.latents(0)
    with torch.no_grad():
        found = packed_predictor(pair.packed, TEXT, torch.float32)(latents, SIGMAS)
        for i, (x, sigma) in enumerate(zip(latents, SIGMAS, strict=True)):
            expected = velocity_predictor(pair.alone, TEXT[i : i + 1], False, torch.float32)(x, sigma)
            torch.testing.assert_close(found[i], expected, rtol=1e-4, atol=1e-5)
            own = velocity_predictor(pair.packed, TEXT[i : i + 1], False, torch.float32)(x, sigma)
            assert torch.equal(own, expected)  # and what is no row goes through as ever


def test_no_image_sees_another(pair_of) -> None:
    pair = pair_of("full")
    latents, text, levels = pair.latents(0), TEXT.clone(), list(SIGMAS)
    with torch.no_grad():
        before = packed_predictor(pair.packed, text, torch.float32)(latents, levels)
        latents[1], text[1], levels[1] = latents[1] + 3, -text[1], torch.tensor([0.1])
        after = packed_predictor(pair.packed, text, torch.float32)(latents, levels)
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [True, False, True, True]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", ["full", "gclf"])
def test_losses_and_gradients_are_those_of_one_by_one(pair_of, kind: str, checkpointing: bool) -> None:
    """Two objectives, each of which noises in its own way: two rows a step, both kept for the backward pass."""
    pair, weights = pair_of(kind), {"hfato": 1.0, "velocity": 0.5}
    clean, noise = pair.latents(1), pair.latents(2)
    samples = [
        Sample(x0, eps, s, weight=torch.tensor([w]), degraded=degrade(x0))
        for x0, eps, s, w in zip(clean, noise, SIGMAS, (0.5, 1.0, 1.5, 2.0), strict=True)
    ]
    if checkpointing:
        pair.packed.enable_gradient_checkpointing()
    of_image = [partial(lambda sample, predict: mixed_loss(weights, predict, sample), one) for one in samples]
    found = packed_losses(of_image, packed_predictor(pair.packed.train(), TEXT, torch.float32))
    (sum(one["loss"] for one in found) / 4).backward()
    for i, sample in enumerate(samples):
        own = mixed_loss(weights, velocity_predictor(pair.alone, TEXT[i : i + 1], False, torch.float32), sample)
        (own["loss"] / 4).backward()
        assert own.keys() == found[i].keys()
        for name, value in own.items():
            torch.testing.assert_close(found[i][name], value, rtol=1e-5, atol=1e-6)
    theirs, ours = (lora.adapter_parameters(t, "own") for t in (pair.alone, pair.packed))
    assert theirs.keys() == ours.keys()
    for name, weight in theirs.items():
        assert weight.grad.abs().max() > 1e-6
        torch.testing.assert_close(ours[name].grad, weight.grad, rtol=1e-4, atol=1e-6)


def test_attention_that_is_not_installed_is_refused(tiny) -> None:
    with pytest.raises(ValueError, match="always"):
        install_packing(tiny.transformer())
