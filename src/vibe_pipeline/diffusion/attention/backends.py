"""GCLF attention itself: one softmax over the keys of the window and the pooled keys, four ways.

dense   SDPA with an L x (L + P) mask: the reference, and the fastest on few tokens.
gather  tiles of queries over boxes of keys (gather.py): CPU and training everywhere.
flex    flex_attention over a block-sparse mask (flex.py): GPU; on the CPU forward only.
flash   FlashAttention-4 over the same blocks (flash.py): Hopper, 16 bit, with its package.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from vibe_pipeline.diffusion.attention.choice import choose_backend, choose_order
from vibe_pipeline.diffusion.attention.flash import flash_attend, flash_runs_on, flash_tables, flash_takes
from vibe_pipeline.diffusion.attention.flex import build_block_mask, compiled_flex, kernel_options
from vibe_pipeline.diffusion.attention.gather import Tile, TiledAttention, plan_tiles
from vibe_pipeline.diffusion.attention.geometry import (
    Backend,
    Grid,
    HalfWindow,
    Order,
    Windows,
    check_tokens,
    inward_window_mask,
    pool_tokens,
    proxy_index,
    reorder_tokens,
)
from vibe_pipeline.diffusion.attention.kinds.base import Place


@dataclass(frozen=True)
class WindowPlan:
    """What one (windows, backend, device) needs, built once; see `make_plan`.

    Attributes:
        windows: the geometry, with the order that q, k, v come in.
        backend: dense, gather, flex or flash.
        mask: bool [L, L + P] for dense; None where everything is visible.
        tiles: for gather.
        block_mask: for flex and flash.
        tables: What flash reads of the windows.
        flex: the flex_attention to call, compiled for this plan alone where that pays.
        options: Of flex's kernel, by what the device can do.
        chosen: Which tokens stand for their tiles, on the device; None: averages do.
    """

    windows: Windows
    backend: Backend
    mask: Tensor | None = None
    tiles: tuple[Tile, ...] = ()
    block_mask: BlockMask | None = None
    tables: tuple[Tensor, ...] = ()
    flex: Callable[..., Tensor] = flex_attention
    options: Mapping[str, bool] | None = None
    chosen: Tensor | None = None

    @property
    def grid(self) -> Grid:
        """(T, H, W) in tokens."""
        return self.windows.grid

    @property
    def order(self) -> Order:
        """How q, k and v come."""
        return self.windows.order

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
        """Attend: q, k, v [B, heads, L, D] in the plan's order; returns the shape of q.

        Raises:
            ValueError: if the shapes do not fit the grid.
            NotImplementedError: for gradients through flex on the CPU.
        """
        check_tokens(self.windows, q, k, v)
        q, k, v = one_dtype(q, k, v)
        scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
        pooled = tuple(pool_tokens(x, self.windows, self.chosen) for x in (k, v)) if self.windows.pool else ()
        if self.backend == "gather":
            return TiledAttention.apply(self.windows, self.tiles, scale, q, k, v, *pooled)
        if self.block_mask is not None:
            return self._by_blocks(q, k, v, pooled, scale)
        if pooled:
            k, v = torch.cat([k, pooled[0]], dim=2), torch.cat([v, pooled[1]], dim=2)
        return scaled_dot_product_attention(q, k, v, attn_mask=self.mask, scale=scale)

    def _by_blocks(self, q: Tensor, k: Tensor, v: Tensor, pooled: tuple[Tensor, ...], scale: float) -> Tensor:
        if pooled:
            # Pooled keys start on a block of their own, so that their blocks are whole and need no mask.
            assert self.block_mask is not None  # made with the plan, for this backend
            gap = self.block_mask.seq_lengths[1] - self.windows.pooled - self.windows.tokens
            empty = k.new_zeros(()).expand(*k.shape[:2], gap, k.shape[3])
            k, v = (torch.cat([x, empty, p], dim=2) for x, p in zip((k, v), pooled, strict=True))
        if self.tables and flash_takes(q):
            return flash_attend(q, k, v, list(self.tables), scale)
        if q.device.type == "cpu" and torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
            raise NotImplementedError("flex has no backward on the CPU: use backend 'gather' or 'auto' there")
        call = flex_attention if torch.compiler.is_compiling() else self.flex
        options = None if self.options is None else dict(self.options)
        return call(q, k, v, block_mask=self.block_mask, scale=scale, kernel_options=options)


def one_dtype(*tensors: Tensor) -> tuple[Tensor, ...]:
    """What autocast does for SDPA itself: one dtype for q, k and v; without autocast, v's."""
    device = tensors[0].device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tensors[-1].dtype
    return tuple(x.to(dtype) for x in tensors)


def _dense_mask(windows: Windows) -> Tensor | None:
    if windows.is_full:
        return None
    mask = inward_window_mask(windows.grid, windows.half_window)
    if windows.order == "hwt":
        for dim in (0, 1):
            mask = reorder_tokens(mask, windows.grid, dim, "hwt")
    return torch.cat([mask, mask.new_ones(windows.tokens, windows.pooled)], dim=1)


def make_plan(
    windows: Windows,
    backend: Backend = "auto",
    device: torch.device | str = "cpu",
    compile_flex: bool | None = None,
) -> WindowPlan:
    """Build what a backend needs for one geometry; everything slow happens here.

    Args:
        windows: grid, window, pooling and token order.
        backend: "auto" chooses; see `choose_backend`.
        device: where q, k, v will live.
        compile_flex: compile flex_attention; None: on CUDA only. Eager flex holds all L x (L + P) scores.

    Raises:
        ValueError: for an unknown backend, or flash where it cannot run.
    """
    device = torch.device(device)
    asked, backend = backend, choose_backend(windows, backend, device.type)
    if backend == "flash" and not flash_runs_on(device):
        if asked == "flash":
            raise ValueError(f"backend 'flash' needs a Hopper GPU and flash-attn-4, not {device}: use 'auto'")
        backend = choose_backend(windows, "auto", device.type, flash=False)
    chosen = proxy_index(windows).to(device) if windows.pool and windows.proxies else None
    if backend == "dense":
        mask = _dense_mask(windows)
        return WindowPlan(windows, backend, mask=None if mask is None else mask.to(device), chosen=chosen)
    if backend == "gather":
        return WindowPlan(windows, backend, tiles=plan_tiles(windows, device), chosen=chosen)
    if compile_flex is None:
        compile_flex = device.type == "cuda"
    flex = compiled_flex() if compile_flex else flex_attention
    mask = build_block_mask(windows, device)
    tables = tuple(flash_tables(windows, mask, device)) if backend == "flash" else ()
    options = kernel_options(device)
    return WindowPlan(windows, backend, block_mask=mask, tables=tables, flex=flex, options=options, chosen=chosen)


def plan_windows(windows: Windows, place: Place) -> WindowPlan:
    """The plan of a place, by its backend or the one that suits it; tokens lie (h, w, t) for flex, (t, h, w) otherwise.

    Args:
        windows: visibility on the place's grid, in any order.
        place: device, backend, and the order if one is forced.
    """
    backend = choose_backend(windows, cast("Backend", place.backend), torch.device(place.device).type)
    order = choose_order(windows, backend, place.order)
    return make_plan(replace(windows, order=order), backend, place.device)


def gclf_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    grid: Grid,
    half_window: HalfWindow,
    pool: int,
    scale: float | None = None,
    backend: Backend = "auto",
    order: Order = "thw",
) -> Tensor:
    """Global-Coarse-Local-Fine attention: softmax over [K_local ; K_pool] (ViBe, arXiv 2603.23326).

    K_local is the inward sliding window over all frames, K_pool the average over pool x pool spatial tiles of
    each frame, visible to every query. Builds its plan at every call; for repeated calls keep one from `make_plan`.

    Args:
        q: queries [B, heads, L, D] after RoPE, L = T H W tokens.
        k: Keys, [batch, heads, L, head_dim] as the queries.
        v: Values, [batch, heads, L, head_dim].
        grid: (T, H, W) in tokens.
        half_window: (d_h, d_w) in tokens; 2 d + 1 at or beyond the axis sees all of it.
        pool: tile side in tokens; 0 for the window alone.
        scale: of the scores; None: 1 / sqrt(D).
        backend: "auto", "dense", "gather", "flex" or "flash".
        order: token order of q, k, v and of the result.

    Returns:
        [B, heads, L, D].

    Raises:
        ValueError: for shapes, windows, pooling or a backend that do not fit; the message quotes them.
        NotImplementedError: for gradients through flex on the CPU.
    """
    (t, h, w), (d_h, d_w) = grid, half_window
    windows = Windows((t, h, w), (d_h, d_w), pool, order)
    check_tokens(windows, q, k, v)
    return make_plan(windows, backend, q.device)(q, k, v, scale)
