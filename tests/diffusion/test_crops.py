"""Crops at their true places with the whole image beside: against the transformer run in plain lines."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vibe_pipeline.diffusion.attention.rotary import rotate
from vibe_pipeline.diffusion.crops import Placed, TokenCrop, cropped_loss, placed_in, working_grid
from vibe_pipeline.diffusion.models import velocity_predictor
from vibe_pipeline.diffusion.objectives import Sample, bridge_loss, degrade, hfato_loss

CROP = TokenCrop((2, 3), 2, (2, 2))
GRID = (4, 6)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1) @ v


@pytest.fixture
def inputs(tiny) -> tuple[torch.nn.Module, Callable, Tensor, Tensor, Tensor]:
    transformer = tiny.transformer()
    generator = torch.Generator().manual_seed(0)
    channels = transformer.config.in_channels
    x, context = (torch.randn(2, channels, 1, *size, generator=generator) for size in ((4, 6), (4, 6)))
    text, sigma = torch.randn(2, 12, 64, generator=generator), torch.tensor([0.3, 0.8])
    return transformer, velocity_predictor(transformer, text, False, torch.float32), x, context, sigma


def test_a_crop_in_the_corner_without_context_is_the_stock_transformer(inputs) -> None:
    transformer, predict, x, _, sigma = inputs
    stock = predict(x, sigma)
    found = predict(x, sigma, Placed(torch.zeros(2, 2, dtype=torch.int64)))
    torch.testing.assert_close(found, stock, rtol=1e-4, atol=1e-5)
    assert torch.equal(predict(x, sigma), stock) and not transformer.rope._forward_hooks


def test_rope_is_relative_so_all_crops_of_one_place_agree_and_context_sees_the_difference(inputs) -> None:
    """Without context a shift of all tokens changes nothing; beside context it does, each image by its own offset."""
    _, predict, x, context, sigma = inputs
    zero, moved = torch.zeros(2, 2, dtype=torch.int64), torch.tensor([[0, 0], [2, 3]])
    torch.testing.assert_close(predict(x, sigma, Placed(moved)), predict(x, sigma), rtol=1e-3, atol=1e-4)
    one, other = (predict(x, sigma, Placed(place, context, 2)) for place in (zero, moved))
    assert torch.equal(one[0], other[0]) and (one[1] - other[1]).abs().max() > 1e-5
    assert (one - predict(x, sigma)).abs().max() > 1e-3


def test_tokens_of_crop_and_context_see_each_other_at_their_places(inputs) -> None:
    """Queries, keys and values of the first block, written out: places (oy + i, ox + j), and 2 c + 1/2 of cell c."""
    transformer, predict, x, context, sigma = inputs
    seen: dict[str, Tensor] = {}

    def keep(module, args, kwargs, out) -> None:
        seen.update(hidden=kwargs.get("hidden_states", args[0] if args else None), out=out)

    block = transformer.blocks[0].attn1
    handle = block.register_forward_hook(keep, with_kwargs=True)
    offset = torch.tensor([[1, 2], [2, 0]])
    predict(x, sigma, Placed(offset, context, 2))
    handle.remove()
    rope, tables = transformer.rope, []
    for oy, ox in offset.tolist():
        places = [(oy + i, ox + j) for i in range(2) for j in range(3)]
        places += [(2 * i + 0.5, 2 * j + 0.5) for i in range(2) for j in range(3)]
        dims = rope.t_dim, rope.h_dim, rope.w_dim
        rows = []
        for y, z in places:
            row = []
            for place, dim in zip((0, y, z), dims, strict=True):
                row += [place * 10_000 ** (-2 * (n // 2) / dim) for n in range(dim)]
            rows.append(row)
        tables.append(rows)
    angles = torch.tensor(tables, dtype=torch.float64)[:, :, None]
    hidden = seen["hidden"]
    assert hidden.shape[1] == 12
    q, k, v = block.norm_q(block.to_q(hidden)), block.norm_k(block.to_k(hidden)), block.to_v(hidden)
    q, k, v = (part.unflatten(2, (2, 16)) for part in (q, k, v))
    cos, sin = angles.cos().float(), angles.sin().float()
    q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    mixed = attention(*(part.transpose(1, 2) for part in (q, k, v))).transpose(1, 2).flatten(2)
    torch.testing.assert_close(seen["out"], block.to_out[0](mixed), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("pool", [2, None])
@pytest.mark.parametrize("which", ["hfato", "bridge"])
def test_the_loss_is_the_crops_and_the_context_is_what_the_objective_noises(which: str, pool: int | None) -> None:
    generator = torch.Generator().manual_seed(1)
    x0, noise = (torch.randn(2, 4, 1, 8, 12, generator=generator) for _ in range(2))
    sigma, start, degraded = torch.tensor([0.4, 0.7]), torch.tensor([0.8, 0.9]), degrade(x0)
    crop = TokenCrop((2, 3), pool, (2, 2))
    drawn = crop.draws(2, x0.shape[1:], generator)
    seen: list[tuple] = []

    def predict(x: Tensor, level: Tensor, placed: Placed) -> Tensor:
        seen.append((x, level, placed))
        return torch.sin(x)

    sample = Sample(x0, noise, sigma, degraded=degraded, sigma_start=start)
    found = cropped_loss({which: 1.0}, predict, sample, crop, drawn)["loss"]

    def part(x: Tensor) -> Tensor:
        places = drawn["offset"].tolist()
        return torch.stack(
            [one[..., 2 * y : 2 * y + 4, 2 * z : 2 * z + 6] for one, (y, z) in zip(x, places, strict=True)]
        )

    own = {"x0": part(x0), "degraded": part(degraded), "noise": part(noise)}
    s, u = sigma.view(-1, 1, 1, 1, 1), start.view(-1, 1, 1, 1, 1)
    if which == "hfato":
        expected = hfato_loss(lambda x, level: torch.sin(x), **own, sigma=sigma)
        whole, levels = (1 - s) * degraded + s * noise, sigma
    else:
        expected = bridge_loss(lambda x, level: torch.sin(x), **own, sigma=sigma * start, sigma_start=start)
        whole, levels = (1 - s) * x0 + s * ((1 - u) * degraded + u * noise), sigma * start
    torch.testing.assert_close(found, expected)
    ((x, level, placed),) = seen
    torch.testing.assert_close(x, part(whole))
    torch.testing.assert_close(level, levels)
    assert torch.equal(placed.offset, drawn["offset"])
    if pool is None:
        assert placed.context is None
        return
    pooled = whole.unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2)).mean((-1, -3))
    missing = levels.view(-1, 1, 1, 1, 1) * math.sqrt(3 / 4)
    torch.testing.assert_close(placed.context, pooled + missing * drawn["context_noise"])


def test_context_holds_as_much_noise_as_its_level_says() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 8, 1, 128, 128, generator=generator)
    for pool in (2, 4):
        fresh = torch.randn(1, 8, 1, 128 // pool, 128 // pool, generator=generator)
        found = TokenCrop((2, 3), pool, (2, 2)).context(0.6 * noise, torch.tensor([0.6]), fresh)
        assert float(found.std()) == pytest.approx(0.6, rel=0.03)


def test_crops_lie_anywhere_within_and_as_the_image_does() -> None:
    generator = torch.Generator().manual_seed(0)
    offset = CROP.draws(4000, (4, 1, 8, 12), generator)["offset"]
    assert {tuple(o) for o in offset.tolist()} == {(y, z) for y in range(3) for z in range(4)}
    assert CROP.within((6, 4)) == (3, 2) and CROP.within((2, 2)) == (2, 2)
    assert CROP.tokens(GRID) == 6 + 6 and TokenCrop((2, 3), None, (2, 2)).tokens(GRID) == 6
    assert CROP.cut(torch.zeros(1, 4, 1, 12, 8), torch.zeros(1, 2, dtype=torch.int64)).shape[-2:] == (6, 4)
    with pytest.raises(ValueError, match=r"5x6 tokens do not divide by crop\.pool 2"):
        CROP.tokens((5, 6))


def test_gradients_go_through_checkpointed_blocks(inputs) -> None:
    transformer, predict, x, context, sigma = inputs
    gradients = []
    for checkpointing in (False, True):
        transformer.train().requires_grad_(True)
        if checkpointing:
            transformer.enable_gradient_checkpointing()
        transformer.zero_grad()
        predict(x, sigma, Placed(torch.tensor([[1, 2], [2, 0]]), context, 2)).square().mean().backward()
        gradients.append(transformer.blocks[0].attn1.to_q.weight.grad.clone())
    assert float(gradients[0].abs().max()) > 0
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-7)


def test_hooks_are_gone_after_an_error(inputs) -> None:
    transformer, *_ = inputs
    with pytest.raises(RuntimeError, match="boom"), placed_in(transformer, Placed(torch.zeros(1, 2))):
        raise RuntimeError("boom")
    assert not any(getattr(transformer, n)._forward_hooks for n in ("rope", "patch_embedding", "proj_out"))


def test_a_grid_of_as_many_tokens_is_one_that_tables_hold() -> None:
    for tokens in (1, 1024, 1025, 1912, 5003):
        one, height, width = working_grid(tokens)
        assert one == 1 and max(height, width) <= 1024 and tokens <= height * width < tokens + height
