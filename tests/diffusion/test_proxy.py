"""Proxy tokens in place of averages: against one softmax over a dense mask."""

import math

import pytest
import torch

from vibe_pipeline.diffusion.attention import KINDS, GclfSettings, Place, install_gclf, inward_window_mask
from vibe_pipeline.diffusion.attention.backends import make_plan
from vibe_pipeline.diffusion.attention.geometry import Windows, pool_tokens, proxy_index, reorder_tokens

GRID, HALF, POOL = (2, 8, 12), (2, 3), 2


def proxies() -> list[int]:
    """The token of every tile, in (t, h, w) order, written out by loops."""
    index, found = proxy_index(Windows(GRID, HALF, POOL)), []
    for t in range(2):
        for i in range(4):
            for j in range(6):
                row, column = divmod(int(index[t, i, j]), POOL)
                found.append((t * 8 + POOL * i + row) * 12 + POOL * j + column)
    return found


def test_one_token_of_each_tile_is_drawn() -> None:
    chosen = proxies()
    tiles = {(n // 96, n // 12 % 8 // 2, n % 12 // 2) for n in chosen}
    assert len(tiles) == len(chosen) == 48
    assert {(n // 12 % 8 % 2, n % 12 % 2) for n in chosen} == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert torch.equal(proxy_index(Windows(GRID, HALF, POOL)), proxy_index(Windows(GRID, HALF, POOL, "hwt")))


@pytest.mark.parametrize("order", ["thw", "hwt"])
@pytest.mark.parametrize("backend", ["dense", "gather"])
def test_it_is_one_softmax_over_window_and_proxies(backend: str, order: str) -> None:
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(2, 2, 192, 8, generator=generator, requires_grad=True) for _ in range(3))
    chosen = proxies()
    keys, values = torch.cat([k, k[:, :, chosen]], 2), torch.cat([v, v[:, :, chosen]], 2)
    mask = torch.cat([inward_window_mask(GRID, HALF), torch.ones(192, 48, dtype=torch.bool)], 1)
    scores = (q @ keys.transpose(-1, -2) / math.sqrt(8)).masked_fill(~mask, -math.inf)
    expected = scores.softmax(-1) @ values
    kind = KINDS["proxy"](half_window=HALF, pool=POOL)
    plan = kind.plan(Place(GRID, backend=backend, order=order))
    found = plan(*(reorder_tokens(x, GRID, 2, order) if order == "hwt" else x for x in (q, k, v)))
    found = reorder_tokens(found, GRID, 2, "thw") if order == "hwt" else found
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(
        *(torch.autograd.grad(out.square().sum(), (q, k, v)) for out in (found, expected)), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_it_costs_what_averages_cost_and_gives_something_else(tiny, velocity) -> None:
    averaged, drawn = (KINDS[name](half_window=(1, 1)) for name in ("gclf", "proxy"))
    assert drawn.keys(GRID, None, 0) == averaged.keys(GRID, None, 0) and drawn.copies == averaged.copies
    x = torch.randn(1, 1, 192, 4, generator=torch.Generator().manual_seed(0))
    both = [pool_tokens(x, kind.windows(GRID, None)) for kind in (averaged, drawn)]
    assert both[0].shape == both[1].shape and not torch.allclose(*both)
    transformer = tiny.transformer()
    with pytest.raises(ValueError, match="does not divide by pool 2"):  # 2 x 3 tokens
        install_gclf(transformer, GclfSettings("proxy", (1, 1)), (2, 3)).prepare((1, 2, 3), "cpu")


@pytest.mark.parametrize("backend", ["dense", "gather"])
def test_it_is_drawn_before_the_first_call_and_one_graph_holds_it(backend: str) -> None:
    """A draw within would break the graph, and every layer would wait for the device."""
    plan = make_plan(Windows(GRID, HALF, POOL, proxies=True), backend)
    x = torch.randn(1, 1, 192, 4, generator=torch.Generator().manual_seed(0))
    expected = plan(x, x, x)
    torch.testing.assert_close(torch.compile(plan, backend="eager", fullgraph=backend == "dense")(x, x, x), expected)
    assert torch.equal(plan.chosen, proxy_index(plan.windows))
    assert make_plan(Windows(GRID, HALF, POOL), backend).chosen is None
