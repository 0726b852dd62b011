"""Rotary positions beyond the native size: tables to the bit, warped keys by the formula, tiles against dense."""

import math
from dataclasses import replace

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed
from torch.nn.functional import scaled_dot_product_attention as sdpa

from vibe_pipeline.diffusion.attention import GclfSettings, Windows, cinescale_scale, install_gclf, inward_window_mask
from vibe_pipeline.diffusion.attention.geometry import pool_tokens, reorder_tokens
from vibe_pipeline.diffusion.attention.relative import plan_relative
from vibe_pipeline.diffusion.attention.rotary import Rotary, rotate
from vibe_pipeline.diffusion.rope import (
    ROPES,
    Ar,
    Ntk,
    Plain,
    RopeKind,
    install_rope,
    ntk_angles,
    relative_positions,
    remove_rope,
    rope_of,
    rope_tables,
)

DIMS = (44, 42, 42)


def test_alpha_one_is_the_stock_table_to_the_last_bit() -> None:
    stock = WanRotaryPosEmbed(128, (1, 2, 2), 1024)
    for ours, theirs in zip(rope_tables(stock, Ntk((1.0, 1.0, 1.0))), (stock.freqs_cos, stock.freqs_sin), strict=True):
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)


def test_ntk_divides_the_lowest_frequency_and_keeps_the_highest() -> None:
    """BASELINES: alpha 20 on 42 channels divides the lowest by 20^(40/42) = 17.34, 25 by 21.45."""
    plain, scaled = ntk_angles(torch.tensor([1]), 42)[0], ntk_angles(torch.tensor([1]), 42, alpha=20.0)[0]
    assert plain.shape == (21,) and plain.dtype == torch.float64
    assert scaled[0] == plain[0] == 1
    assert float(plain[-1] / scaled[-1]) == pytest.approx(20 ** (40 / 42)) == pytest.approx(17.34, abs=0.01)
    assert pytest.approx(21.45, abs=0.01) == 25 ** (40 / 42)
    by_hand = [3 * (10_000 * 20) ** (-2 * j / 42) for j in range(21)]
    assert ntk_angles(torch.tensor([3]), 42, 20.0)[0].tolist() == pytest.approx(by_hand)
    for wrong in ({"dim": 41}, {"dim": 0}, {"dim": 42, "alpha": 0.0}, {"dim": 42, "theta": -1.0}):
        with pytest.raises(ValueError, match="not"):
            ntk_angles(torch.tensor([1]), **wrong)


def test_tables_of_each_axis_have_their_own_base() -> None:
    rope = WanRotaryPosEmbed(128, (1, 2, 2), 64)
    cos, _ = rope_tables(rope, Ntk((1.0, 20.0, 25.0)))
    place, (t, h, w) = torch.arange(64), DIMS
    expected = [ntk_angles(place, n, a).cos().repeat_interleave(2, 1) for n, a in ((t, 1.0), (h, 20.0), (w, 25.0))]
    assert torch.equal(cos, torch.cat(expected, 1).float())


def test_the_temperature_of_cinescale() -> None:
    """1.08465 at 32640 tokens a frame (4K), 1.04952 at 18360, 1 at 8160; arXiv 2508.15774's code."""
    for tokens, factor in ((32_640, 1.08465), (18_360, 1.04952), (8_160, 1.0), (20_000, 1.04952), (10_000, 1.0)):
        assert cinescale_scale(tokens, 128) * math.sqrt(128) == pytest.approx(factor, abs=5e-6)
    # On the 5B's 4K grid never, unless measured against its own native frame of 880 tokens.
    assert cinescale_scale(8_160, 128) == 1 / math.sqrt(128)
    assert cinescale_scale(8_160, 128, 880) * math.sqrt(128) == pytest.approx(math.log(2 * 880, 880))


def by_hand(length: int, start: int, stop: int, reach: int, near: int) -> list[int]:
    """The published formula in plain numbers."""
    a, b, end = start, stop - 1, length - 1
    budget = reach - (b - a)
    left, right = a - min(near, a, budget), b + min(near, end - b, budget)
    lowest, highest = max(0, b - reach), min(end, a + reach)
    places = []
    for p in range(length):
        x = float(p)
        if p < left and left > 0 and lowest > 0:
            x = lowest + p * (left - lowest) / left
        elif p > right and highest < end:
            x = right + (p - right) * (highest - right) / (end - right)
        places.append(min(max(round(x), 0), end))
    return places


@pytest.mark.parametrize(
    ("length", "tile", "reach", "near"),
    [(68, 18, 44, 9), (120, 32, 79, 16), (68, 18, 21, 9), (30, 7, 8, 3), (9, 4, 20, 2)],
)
def test_warped_keys_are_within_reach_true_nearby_and_in_order(length: int, tile: int, reach: int, near: int) -> None:
    for start in range(0, length, tile):
        stop = min(start + tile, length)
        places = relative_positions(length, start, stop, reach, near)
        assert places.dtype == torch.int64 and places.tolist() == by_hand(length, start, stop, reach, near)
        queries = torch.arange(start, stop)
        assert (places[None] - queries[:, None]).abs().max() <= reach
        assert (places.diff() >= 0).all() and places.min() >= 0 and places.max() < length
        budget = reach - (stop - 1 - start)
        true = slice(start - min(near, start, budget), stop + min(near, length - stop, budget))
        assert torch.equal(places[true], torch.arange(length)[true])
    with pytest.raises(ValueError, match="longer than its keys may reach"):
        relative_positions(68, 0, 18, 16, 9)
    with pytest.raises(ValueError, match="not a part of an axis"):
        relative_positions(68, 60, 70, 44, 9)


def tables_of(grid: tuple[int, int, int], dim: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    rope = WanRotaryPosEmbed(dim, (1, 1, 1), 64)
    return rope(torch.zeros(1, 1, *grid))


def dense(grid, windows: Windows, kind: Ar, q, k, v, tables) -> torch.Tensor:
    """One query at a time, its keys turned at their warped places; tokens in (t, h, w) order."""
    _, height, width = grid
    mask = inward_window_mask(grid, windows.half_window)
    index = torch.arange(len(mask)).view(grid)
    reach, out = kind.reaches(None), torch.empty_like(q)
    turned = rotate(q.transpose(1, 2), *tables).transpose(1, 2)
    for y in range(height):
        start = y // kind.tile[0] * kind.tile[0]
        down = relative_positions(height, start, min(start + kind.tile[0], height), reach[0], kind.near[0])
        for x in range(width):
            start = x // kind.tile[1] * kind.tile[1]
            across = relative_positions(width, start, min(start + kind.tile[1], width), reach[1], kind.near[1])
            places = index[:, down][:, :, across].flatten()
            placed = rotate(k.transpose(1, 2), *(t[:, places] for t in tables)).transpose(1, 2)
            keys, values = placed, v
            seen = mask[index[:, y, x]]
            if windows.pool:
                keys = torch.cat([placed, pool_tokens(placed, windows)], 2)
                values = torch.cat([v, pool_tokens(v, windows)], 2)
                seen = torch.cat([seen, seen.new_ones(len(seen), windows.pooled)], 1)
            at = index[:, y, x]
            out[:, :, at] = sdpa(turned[:, :, at], keys, values, attn_mask=seen)
    return out


@pytest.mark.parametrize("order", ["thw", "hwt"])
@pytest.mark.parametrize("half", [None, (2, 3)], ids=["full", "window"])
@pytest.mark.parametrize("pool", [0, 2])
def test_tiles_equal_one_query_at_a_time(order: str, half: tuple[int, int] | None, pool: int) -> None:
    grid, kind = (2, 10, 12), Ar(tile=(4, 5), reach=(5, 6), near=(1, 2))
    windows = Windows(grid, half or grid[1:], pool, "thw")
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 240, 16, generator=generator) for _ in range(3))
    tables = tables_of(grid)
    expected = dense(grid, windows, kind, q, k, v, tables)
    plan = plan_relative(replace(windows, order=order), kind, None, "cpu")
    if order == "hwt":
        q, k, v = (reorder_tokens(x, grid, 2, "hwt") for x in (q, k, v))
        tables = tuple(reorder_tokens(x, grid, 1, "hwt") for x in tables)
    found = plan(q, k, v, rotary=Rotary(*tables))
    found = reorder_tokens(found, grid, 2, "thw") if order == "hwt" else found
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_gradients_go_through_warped_keys() -> None:
    grid, kind = (1, 6, 6), Ar(tile=(3, 3), reach=(3, 3), near=(1, 1))
    plan = plan_relative(Windows(grid, (1, 1), 2), kind, None, "cpu")
    q, k, v = (torch.randn(1, 1, 36, 16, requires_grad=True) for _ in range(3))
    plan(q, k, v, rotary=Rotary(*tables_of(grid))).square().sum().backward()
    assert all(x.grad is not None and x.grad.abs().sum() > 0 for x in (q, k, v))


@pytest.mark.parametrize("kind", [Ar(tile=(2, 2), reach=(63, 63)), Ar(tile=(64, 64), reach=(63, 63), near=(1, 1))])
def test_a_reach_over_the_grid_or_one_tile_is_the_stock_transformer(tiny, velocity, kind: Ar) -> None:
    """Target = native grid with reach >= L - 1; and one tile that covers everything."""
    transformer = tiny.transformer()
    stock = velocity(transformer)
    install_gclf(transformer, GclfSettings(kind="full"), (2, 3), rope=kind)
    torch.testing.assert_close(velocity(transformer), stock, rtol=1e-4, atol=1e-5)
    install_gclf(transformer, GclfSettings(kind="full"), (2, 3), rope=Ar(tile=(1, 1), reach=(1, 1), near=(1, 1)))
    assert (velocity(transformer) - stock).abs().max() > 1e-3


def test_tables_are_switched_and_put_back(tiny, velocity) -> None:
    transformer = tiny.transformer()
    stock, buffers = velocity(transformer), (transformer.rope.freqs_cos, transformer.rope.freqs_sin)
    install_rope(transformer, Ntk())
    wide = velocity(transformer)
    install_rope(transformer, Ntk((1.0, 25.0, 25.0)))
    wider = velocity(transformer)
    assert (wide - stock).abs().max() > 1e-4 and (wider - wide).abs().max() > 1e-6
    install_rope(transformer, Plain())
    assert torch.equal(velocity(transformer), stock)
    install_rope(transformer, Ntk())
    remove_rope(transformer)
    assert transformer.rope.freqs_cos is buffers[0] and transformer.rope.freqs_sin is buffers[1]
    remove_rope(transformer)  # nothing there: nothing to do


def test_tables_and_attention_kinds_and_token_orders_go_together(wan21, velocity) -> None:
    """NTK tables come out in the plan's order, whichever kind attends."""
    transformer, found = wan21.transformer(), {}
    for order in ("thw", "hwt"):
        install_gclf(transformer, GclfSettings("window", (1, 1)), (2, 3), order=order)
        install_rope(transformer, Ntk())
        found[order] = velocity(transformer)
    torch.testing.assert_close(found["thw"], found["hwt"], rtol=1e-4, atol=1e-5)


def test_what_cannot_go_together_is_refused(wan21) -> None:
    transformer = wan21.transformer()
    with pytest.raises(
        ValueError, match="rope ar goes with the attention kinds full, window, gclf, proxy, not with t3"
    ):
        install_gclf(transformer, type("S", (), {"kind": "t3", "scale": None, "groups": ((1, 1, 1),)})(), rope=Ar())
    with pytest.raises(ValueError, match=r"rope\.reach native is one less than the native grid"):
        install_gclf(transformer, GclfSettings("full"), rope=Ar(reach="native"))
    with pytest.raises(ValueError, match="unknown kind of RoPE 'yearn'; known: none, ntk, yarn"):
        rope_of(type("S", (), {"kind": "yearn"})())


def test_a_new_kind_is_one_class(wan21, velocity, monkeypatch: pytest.MonkeyPatch) -> None:
    class Halved(RopeKind):
        name = "halved"

        def angles(self, axis, positions, dim):
            return ntk_angles(positions / 2, dim)

    monkeypatch.setattr("vibe_pipeline.diffusion.rope.ROPES", dict(ROPES) | {"halved": Halved})
    transformer = wan21.transformer()
    stock = velocity(transformer)
    install_rope(transformer, rope_of(type("S", (), {"kind": "halved"})()))
    assert (velocity(transformer) - stock).abs().max() > 1e-4
