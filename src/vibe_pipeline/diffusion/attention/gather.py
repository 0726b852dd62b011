"""Windowed attention by tiles of queries: plain SDPA calls on boxes of keys, on any device, with gradients.

Queries of a tile see nearly the same window, so one box of keys serves them all. The inward push makes the
d + 1 queries at each edge see the SAME window: those tiles need no mask along that axis. Only the inputs are
kept for the backward pass; each tile is computed again there, so memory is that of one tile.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from vibe_pipeline.diffusion.attention.geometry import HalfWindow, Windows, split_axes, window_starts

MASK_ELEMENTS = 2**24  # largest mask of one call, in elements; more frames of a tile go into further calls
Box = tuple[slice, ...]
Run = tuple[int, int]


@dataclass(frozen=True)
class Tile:
    """Queries that share one SDPA call.

    Attributes:
        queries: index into [B, heads, T, H, W, D].
        keys: likewise; all frames, and the union of the queries' windows.
        mask: bool [query positions, key positions] within one frame, or None where all are visible.
    """

    queries: Box
    keys: Box
    mask: Tensor | None


def _axis_runs(length: int, half: int, part: Run | None = None) -> list[Run]:
    """Cut an axis, or a part, into runs of queries: edges with a common window, the middle in quarter windows."""
    start, stop = part or (0, length)
    runs = ((max(a, start), min(b, stop)) for a, b in _whole_runs(length, half))
    return [(a, b) for a, b in runs if a < b]


def _whole_runs(length: int, half: int) -> list[Run]:
    size = min(2 * half + 1, length)
    if size == length:
        return [(0, length)]
    first, last = half + 1, length - half - 1
    pieces = max(-(-(last - first) // -(-size // 4)), 1)
    cuts = [first + (last - first) * i // pieces for i in range(pieces + 1)]
    return [(0, first), *((a, b) for a, b in pairwise(cuts) if a < b), (last, length)]


def _axis_mask(run: Run, length: int, half: int) -> tuple[slice, Tensor]:
    """The keys that a run of queries sees together, and who sees which: bool [queries, keys]."""
    starts, size = window_starts(length, half)[slice(*run)], min(2 * half + 1, length)
    low, high = int(starts[0]), int(starts[-1]) + size
    offset = torch.arange(low, high) - starts[:, None]
    return slice(low, high), (offset >= 0) & (offset < size)


def plan_tiles(
    windows: Windows, device: torch.device | str = "cpu", part: tuple[Run, Run] | None = None
) -> tuple[Tile, ...]:
    """Cut the queries of a grid into tiles; together they cover every query once.

    Args:
        windows: Which keys a query sees.
        device: Of the masks.
        part: Rows and columns, each (start, stop), whose queries alone are wanted.
    """
    frames, height, width = windows.grid
    half: HalfWindow = windows.half_window
    every, tiles = slice(None), []
    for rows in _axis_runs(height, half[0], part and part[0]):
        key_rows, row_mask = _axis_mask(rows, height, half[0])
        for columns in _axis_runs(width, half[1], part and part[1]):
            key_columns, column_mask = _axis_mask(columns, width, half[1])
            mask = (row_mask[:, None, :, None] & column_mask[None, :, None, :]).flatten(2).flatten(0, 1)
            at_once = max(1, MASK_ELEMENTS // (len(mask) * (mask.shape[1] * frames + windows.pooled)))
            if mask.all():  # then none is built, and every frame goes into one call
                mask, at_once = None, frames
            mask = None if mask is None else mask.to(device)
            keys = (every, every, every, key_rows, key_columns)
            for t in range(0, frames, at_once):
                queries = (every, every, slice(t, min(t + at_once, frames)), slice(*rows), slice(*columns))
                tiles.append(Tile(queries, keys, mask))
    return tuple(tiles)


def _whole_mask(mask: Tensor, query_frames: int, key_frames: int, pooled: int) -> Tensor:
    """Repeat a frame's mask for all frames and let every query see the pooled keys."""
    queries, keys = mask.shape
    local = mask[None, :, None, :].expand(query_frames, queries, key_frames, keys)
    local = local.reshape(query_frames * queries, key_frames * keys)
    return torch.cat([local, local.new_ones(len(local), pooled)], dim=1) if pooled else local


def attend_tile(
    q: Tensor, k: Tensor, v: Tensor, pooled: tuple[Tensor, ...], mask: Tensor | None, scale: float
) -> Tensor:
    """One tile: boxes q [B, heads, t, h, w, D], k and v [B, heads, T, h', w', D]; returns q's shape."""
    keys, values = k.flatten(2, 4), v.flatten(2, 4)
    if pooled:
        keys, values = torch.cat([keys, pooled[0]], dim=2), torch.cat([values, pooled[1]], dim=2)
    if mask is not None:
        mask = _whole_mask(mask, q.shape[2], k.shape[2], keys.shape[2] - math.prod(k.shape[2:5]))
    out = scaled_dot_product_attention(q.flatten(2, 4), keys, values, attn_mask=mask, scale=scale)
    return out.unflatten(2, q.shape[2:5])


class TiledAttention(torch.autograd.Function):
    """Attention over tiles, keeping only its inputs for the backward pass; once differentiable."""

    @staticmethod
    def forward(
        ctx: Any,
        windows: Windows,
        tiles: tuple[Tile, ...],
        scale: float,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *pooled: Tensor,
    ) -> Tensor:
        """q, k, v [B, heads, L, D] in the order of `windows`; pooled: none, or two of [B, heads, P, D]."""
        ctx.save_for_backward(q, k, v, *pooled)
        ctx.windows, ctx.tiles, ctx.scale = windows, tiles, scale
        out = torch.empty_like(q)
        q, k, v, target = (split_axes(x, windows) for x in (q, k, v, out))
        for tile in tiles:
            target[tile.queries] = attend_tile(
                q=q[tile.queries], k=k[tile.keys], v=v[tile.keys], pooled=pooled, mask=tile.mask, scale=scale
            )
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Compute each tile again and add up the gradients, in float32 at least."""
        inputs = ctx.saved_tensors
        grads = [torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32)) for x in inputs]

        def view(tensors: list[Tensor] | tuple[Tensor, ...]) -> list[Tensor]:
            return [split_axes(x, ctx.windows) for x in tensors[:3]] + list(tensors[3:])

        sources, targets, grad = view(inputs), view(grads), split_axes(grad, ctx.windows)
        for tile in ctx.tiles:
            boxes = (tile.queries, tile.keys, tile.keys, ..., ...)[: len(sources)]
            parts = [x[box].detach().requires_grad_() for x, box in zip(sources, boxes, strict=True)]
            with torch.enable_grad():
                q, k, v, *pooled = parts
                out = attend_tile(q, k, v, tuple(pooled), tile.mask, ctx.scale)
            found = torch.autograd.grad(out, parts, grad[tile.queries])
            for target, box, g in zip(targets, boxes, found, strict=True):
                target[box] += g
        return (None, None, None, *(g.to(x.dtype) for g, x in zip(grads, inputs, strict=True)))
