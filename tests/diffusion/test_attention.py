"""GCLF attention against the window's definition, written out naively here; values and gradients."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vibe_pipeline.diffusion.attention import (
    Windows,
    build_block_mask,
    computed_share,
    freeswim_scale,
    gclf_attention,
    inward_window_mask,
    make_plan,
    reorder_tokens,
    window_blocks,
)
from vibe_pipeline.diffusion.attention.gather import plan_tiles

# (grid, half_window, pool): one frame, odd grids, H != W, windows larger than the grid on one axis or both.
AWKWARD = [
    ((1, 4, 8), (1, 2), 2),
    ((1, 9, 16), (2, 3), 0),
    ((3, 5, 7), (1, 2), 0),
    ((2, 8, 12), (2, 3), 4),
    ((2, 12, 4), (3, 9), 2),
    ((3, 4, 4), (9, 9), 2),
    ((2, 3, 5), (4, 4), 0),
    ((5, 6, 10), (1, 1), 2),
]


def naive_mask(grid, half_window):
    """The definition, token by token."""

    def sees(q, k, d, length):
        du, db = max(d + q - length + 1, 0), max(d - q, 0)
        return q - d - du <= k <= q + d + db

    tokens = list(itertools.product(*map(range, grid)))
    return torch.tensor(
        [
            [sees(q[1], k[1], half_window[0], grid[1]) and sees(q[2], k[2], half_window[1], grid[2]) for k in tokens]
            for q in tokens
        ]
    )


def naive_attention(q, k, v, grid, half_window, pool, scale):
    """One softmax over [K_local ; K_pool], with the L x (L + P) scores in full."""
    mask = naive_mask(grid, half_window)
    if pool:
        pooled = []
        for x in (k, v):
            frames = x.unflatten(2, grid).permute(0, 1, 2, 5, 3, 4)  # b n t d h w
            tiles = torch.nn.functional.avg_pool2d(frames.flatten(0, 2), pool)
            pooled.append(tiles.unflatten(0, frames.shape[:3]).permute(0, 1, 2, 4, 5, 3).flatten(2, 4))
        k, v = torch.cat([k, pooled[0]], 2), torch.cat([v, pooled[1]], 2)
        mask = torch.cat([mask, torch.ones(len(mask), pooled[0].shape[2], dtype=torch.bool)], 1)
    scores = (q @ k.transpose(2, 3) * scale).masked_fill(~mask, float("-inf"))
    return scores.softmax(-1) @ v


def random_qkv(grid, dim=6, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    shape = (2, 2, grid[0] * grid[1] * grid[2], dim)
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for _ in range(3)]


def assert_matches_naive(grid, half_window, pool, backend, order="thw", scale=0.4):
    q, k, v = random_qkv(grid)
    expected = naive_attention(q, k, v, grid, half_window, pool, scale)
    reordered = [reorder_tokens(x, grid, 2, "hwt") if order == "hwt" else x for x in (q, k, v)]
    out = gclf_attention(*reordered, grid, half_window, pool, scale, backend, order)
    out = reorder_tokens(out, grid, 2, "thw") if order == "hwt" else out
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
    found, wanted = (torch.autograd.grad(x, (q, k, v), grad) for x in (out, expected))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("grid", "half_window", "pool"), AWKWARD)
def test_window_mask_is_the_formula(grid, half_window, pool):
    assert torch.equal(inward_window_mask(grid, half_window), naive_mask(grid, half_window))


def test_every_query_sees_the_same_number_of_keys():
    assert (inward_window_mask((3, 9, 12), (2, 4)).sum(1) == 5 * 9 * 3).all()


def test_window_bigger_than_the_grid_sees_everything():
    assert inward_window_mask((2, 4, 6), (2, 3)).all()
    assert Windows((2, 4, 6), (2, 3)).is_full
    assert not inward_window_mask((2, 4, 6), (1, 3)).all()


@pytest.mark.parametrize("order", ["thw", "hwt"])
@pytest.mark.parametrize("backend", ["dense", "gather"])
@pytest.mark.parametrize(("grid", "half_window", "pool"), AWKWARD)
def test_values_and_gradients(grid, half_window, pool, backend, order):
    assert_matches_naive(grid, half_window, pool, backend, order)


sizes = st.integers(1, 9)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 3), sizes, sizes, st.integers(1, 5), st.integers(1, 5), st.sampled_from([0, 1, 2, 3, 4]))
def test_gather_on_any_geometry(frames, height, width, d_h, d_w, pool):
    if pool:
        height, width = -(-height // pool) * pool, -(-width // pool) * pool
    assert_matches_naive((frames, height, width), (d_h, d_w), pool, "gather")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(1, 4), sizes, sizes, st.integers(1, 5), st.integers(1, 5), st.sampled_from([1, 4, 7, 16, 128]),
    st.sampled_from(["thw", "hwt"]),
)  # fmt: skip
def test_blocks_are_those_of_the_dense_mask(frames, height, width, d_h, d_w, block, order):
    windows = Windows((frames, height, width), (d_h, d_w), 0, order)
    mask = inward_window_mask(windows.grid, windows.half_window)
    if order == "hwt":
        mask = reorder_tokens(reorder_tokens(mask, windows.grid, 0, order), windows.grid, 1, order)
    rows = [[part.any() for part in row.split(block, 1)] for row in mask.split(block)]
    every = [[part.all() for part in row.split(block, 1)] for row in mask.split(block)]
    touched, whole = window_blocks(windows, block)
    assert torch.equal(touched, torch.tensor(rows))
    assert torch.equal(whole, torch.tensor(every))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 40), st.integers(1, 60), st.integers(1, 30))
def test_tiles_cover_every_query_once(height, width, half):
    count = torch.zeros(1, 1, 2, height, width, 1, dtype=torch.int)
    for tile in plan_tiles(Windows((2, height, width), (half, half + 2))):
        count[tile.queries] += 1
    assert (count == 1).all()


def test_tiles_split_over_frames(monkeypatch):
    monkeypatch.setattr("vibe_pipeline.diffusion.attention.gather.MASK_ELEMENTS", 500)
    assert_matches_naive((5, 6, 10), (1, 1), 2, "gather")


@pytest.mark.parametrize("order", ["thw", "hwt"])
@pytest.mark.parametrize(("grid", "half_window", "pool"), [*AWKWARD, ((3, 16, 12), (2, 3), 2), ((4, 8, 16), (2, 3), 0)])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_forward_equals_dense_on_cpu(grid, half_window, pool, order):
    windows = Windows(grid, half_window, pool, order)
    q, k, v = (x.detach() for x in random_qkv(grid, dim=16, dtype=torch.float32))
    torch.testing.assert_close(make_plan(windows, "flex")(q, k, v), make_plan(windows, "dense")(q, k, v))


def test_flex_refuses_gradients_on_cpu():
    grid = (1, 4, 8)
    with pytest.raises(NotImplementedError, match="gather"):
        gclf_attention(*random_qkv(grid, dim=16, dtype=torch.float32), grid, (1, 1), 2, backend="flex")


@pytest.mark.parametrize("pool", [0, 2])
def test_block_mask_is_the_dense_mask(pool):
    windows = Windows((3, 10, 14), (2, 3), pool, "hwt")
    block_mask = build_block_mask(windows, block=16)
    q, kv = (torch.arange(n) for n in block_mask.seq_lengths)
    visible = block_mask.mask_mod(0, 0, q[:, None], kv[None, :])
    local = reorder_tokens(
        reorder_tokens(naive_mask((3, 10, 14), (2, 3)), windows.grid, 0, "hwt"), windows.grid, 1, "hwt"
    )
    assert torch.equal(visible[:, : windows.tokens], local)
    assert visible.sum() == local.sum() + windows.tokens * windows.pooled
    computed = block_mask.to_dense()[0, 0].bool().repeat_interleave(16, 0).repeat_interleave(16, 1)
    assert (computed[: len(q), : len(kv)] | ~visible).all()


@pytest.mark.parametrize(
    ("grid", "half_window", "ideal", "plain", "ours"),
    [
        ((31, 44, 80), (11, 20), 26.8, 57.2, 31.7),
        ((31, 66, 120), (11, 20), 11.9, 37.2, 14.2),
        ((21, 68, 120), (15, 26), 20.1, 48.0, 24.7),
    ],
)
def test_table_of_computed_blocks(grid, half_window, ideal, plain, ours):
    """Shares of blocks computed at Wan's true grids; the second in (t, h, w) order was brute-forced too."""
    windows = Windows(grid, half_window)
    assert 100 * windows.sizes[0] * windows.sizes[1] / (grid[1] * grid[2]) == pytest.approx(ideal, abs=0.1)
    assert 100 * computed_share(windows) == pytest.approx(plain, abs=0.2)
    assert 100 * computed_share(Windows(grid, half_window, 0, "hwt")) == pytest.approx(ours, abs=0.2)


def test_reordering_is_a_round_trip():
    x = torch.arange(2 * 3 * 4)[None, :, None]
    there = reorder_tokens(x, (2, 3, 4), 1, "hwt")
    assert there.flatten()[:4].tolist() == [0, 12, 1, 13]
    assert torch.equal(reorder_tokens(there, (2, 3, 4), -2, "thw"), x)


def test_few_inputs_are_kept_for_the_backward_pass():
    """Memory well under L^2: nothing but q, k, v and the pooled keys is saved."""
    grid, saved = (1, 24, 32), []
    q, k, v = random_qkv(grid)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()) or x, lambda x: x):
        gclf_attention(q, k, v, grid, (3, 4), 2, backend="gather")
    assert sum(saved) <= 3 * q.numel() + 2 * q.numel() // 4


def test_autocast_mixes_no_dtypes():
    grid = (1, 6, 8)
    q, k, v = random_qkv(grid, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = gclf_attention(q, k, v.bfloat16(), grid, (1, 2), 2, backend="gather")
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert q.grad.dtype == torch.float32


def test_auto_backend_fits_the_device():
    assert make_plan(Windows((1, 8, 8), (2, 2), 2)).backend == "dense"
    assert make_plan(Windows((1, 64, 64), (8, 8), 2)).backend == "gather"
    full = make_plan(Windows((1, 64, 64), (64, 64)))
    assert full.backend == "dense"
    assert full.mask is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid": (1, 4, 9), "pool": 0}, r"\(1, 4, 9\) needs .*36"),
        ({"pool": 3}, r"\(1, 4, 8\) does not divide by pool 3: height 4 tokens; nearest that does: 3 or 6"),
        ({"pool": 16}, "height 4 tokens; nearest that does: 16"),
        ({"pool": -1}, "pool .* not -1"),
        ({"half_window": (0, 2)}, r"half window .* not \(0, 2\)"),
        ({"backend": "sparse"}, "unknown attention backend 'sparse': use one of auto, dense, gather, flex"),
        ({"order": "wht"}, "unknown token order 'wht'"),
    ],
)
def test_errors_quote_the_values(change, message):
    q, k, v = random_qkv((1, 4, 8))
    with pytest.raises(ValueError, match=message):
        gclf_attention(q, k, v, **{"grid": (1, 4, 8), "half_window": (1, 2), "pool": 2} | change)


def test_freeswim_scale():
    assert freeswim_scale(1560, 128) == pytest.approx(((1 + 0.6931472 / 7.3524411) / 128) ** 0.5)
    with pytest.raises(ValueError, match="not 1 and 64"):
        freeswim_scale(1, 64)
