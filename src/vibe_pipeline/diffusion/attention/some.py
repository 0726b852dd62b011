"""Attention of some queries alone over all keys, as region-adaptive sampling needs it; see `diffusion.regions`.

Which keys a query sees, and the pooled ones, are those of the plan. Where that plan is flex's, whose block mask is made
for all queries, the tiles of `gather` stand in: SDPA on boxes of keys, by those of a tile's queries that are asked for.
"""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from vibe_pipeline.diffusion.attention.backends import one_dtype
from vibe_pipeline.diffusion.attention.gather import Tile, plan_tiles
from vibe_pipeline.diffusion.attention.geometry import Windows, pool_tokens, split_axes

if TYPE_CHECKING:
    from vibe_pipeline.diffusion.attention.backends import WindowPlan


@dataclass(frozen=True)
class Part:
    """The queries of one tile that are asked for, of one clip.

    Attributes:
        item: Of the batch.
        tile: Its keys, and who sees which.
        rows: int64 [m]: which of the queries asked for.
        places: int64 [m]: where each stands among the tile's positions within a frame.
    """

    item: int
    tile: Tile
    rows: Tensor
    places: Tensor


@dataclass(frozen=True)
class Some:
    """Queries that are attended alone, the same in every layer.

    Attributes:
        index: int64 [B, n]: their tokens, in the plans' order.
        tiles: Those of a geometry, kept from step to step.
    """

    index: Tensor
    tiles: dict[Windows, tuple[Tile, ...]] = field(default_factory=dict)
    _parts: dict[Windows, list[Part]] = field(default_factory=dict)

    def of(self, x: Tensor, dim: int) -> Tensor:
        """Their rows of x, whose axis `dim` counts all tokens; of x with batch 1 each clip's own."""
        x = x.expand(len(self.index), *x.shape[1:])
        return x.take_along_dim(self._shaped(x.ndim, dim), dim)

    def put(self, into: Tensor, values: Tensor, dim: int) -> Tensor:
        """`into` with their rows replaced, in place."""
        return into.scatter_(dim, self._shaped(into.ndim, dim).expand_as(values), values)

    def _shaped(self, ndim: int, dim: int) -> Tensor:
        shape = [1] * ndim
        shape[0], shape[dim] = self.index.shape
        return self.index.view(shape)

    def parts(self, plan: "WindowPlan") -> list[Part]:
        """Them by tiles; once for all layers of one geometry."""
        windows = plan.windows
        if windows not in self._parts:
            if windows not in self.tiles:
                self.tiles[windows] = plan.tiles or plan_tiles(windows, self.index.device)
            self._parts[windows] = self._cut(windows, self.tiles[windows])
        return self._parts[windows]

    def _cut(self, windows: Windows, tiles: tuple[Tile, ...]) -> list[Part]:
        row = torch.full((len(self.index), windows.tokens), -1, device=self.index.device)
        counted = torch.arange(self.index.shape[1], device=self.index.device).expand_as(self.index)
        row = split_axes(row.scatter(1, self.index, counted)[:, None, :, None], windows)
        parts = []
        for tile in tiles:
            box = row[tile.queries]
            within = box.shape[3] * box.shape[4]
            for item, rows in enumerate(box.flatten(1)):
                found = (rows >= 0).nonzero().flatten()
                if len(found):
                    parts.append(Part(item, tile, rows[found], found % within))
        return parts


def attend_some(plan: "WindowPlan", q: Tensor, k: Tensor, v: Tensor, some: Some, scale: float | None = None) -> Tensor:
    """What the plan gives for some of its queries.

    Args:
        plan: Of windows, pooled keys or plain full attention.
        q: Of the queries asked for, [B, heads, n, D].
        k: Of all tokens, [B, heads, L, D], in the plan's order.
        v: Of all tokens, as k.
        some: Which queries they are.
        scale: Of the scores; None: 1 / sqrt(D).

    Returns:
        [B, heads, n, D].
    """
    windows, scale = plan.windows, 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    q, k, v = one_dtype(q, k, v)
    pooled = tuple(pool_tokens(x, windows) for x in (k, v)) if windows.pool else ()
    if plan.backend == "dense":
        if pooled:
            k, v = torch.cat([k, pooled[0]], dim=2), torch.cat([v, pooled[1]], dim=2)
        mask = None if plan.mask is None else plan.mask[some.index][:, None]
        return scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    out, keys, values = torch.empty_like(q), split_axes(k, windows), split_axes(v, windows)
    for part in some.parts(plan):
        own = slice(part.item, part.item + 1)
        k, v = (x[own][part.tile.keys].flatten(2, 4) for x in (keys, values))
        if pooled:
            k, v = (torch.cat([x, p[own]], dim=2) for x, p in zip((k, v), pooled, strict=True))
        asked, mask = q[own][:, :, part.rows], _mask(part, windows)
        out[own, :, part.rows] = scaled_dot_product_attention(asked, k, v, attn_mask=mask, scale=scale)
    return out


def _mask(part: Part, windows: Windows) -> Tensor | None:
    """bool [m, keys]: a frame's mask for the queries, the same in all frames; pooled keys are seen by all."""
    if part.tile.mask is None:
        return None
    local = part.tile.mask[part.places].repeat(1, windows.grid[0])
    return torch.cat([local, local.new_ones(len(local), windows.pooled)], dim=1)
