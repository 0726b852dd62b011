"""AR-RoPE: keys turned again for every tile of queries, beside full attention, windows or GCLF.

A tile's queries stand in their own places; its keys where `rope.relative_positions` puts them, on both axes of a frame,
so that none is further away than the base was trained for. With windows or pooled keys (a cheap form that nobody has
published) the same keys are seen as without, pooled after they are turned. One tile's keys are in memory at a time.

Source: CineScale's second release (Eyeline-Labs/CineScale, `wan/modules/model.py`, Apache-2.0).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from vibe_pipeline.diffusion.attention.backends import one_dtype
from vibe_pipeline.diffusion.attention.gather import Tile, attend_tile, plan_tiles
from vibe_pipeline.diffusion.attention.geometry import (
    Grid,
    NativeGrid,
    Order,
    Windows,
    check_tokens,
    pool_tokens,
    split_axes,
)
from vibe_pipeline.diffusion.attention.rotary import Rotary
from vibe_pipeline.diffusion.rope import Ar, relative_positions


@dataclass(frozen=True)
class Turn:
    """One tile of queries.

    Attributes:
        places: int64 [L], the token in whose place each key stands.
        tiles: SDPA calls that together cover the tile's queries once.
    """

    places: Tensor
    tiles: tuple[Tile, ...]


@dataclass(frozen=True)
class RelativePlan:
    """What AR-RoPE needs on one grid, built once; called with q and k before RoPE.

    Attributes:
        windows: Which keys a query sees; tokens come in its order.
        turns: The tiles.
    """

    windows: Windows
    turns: tuple[Turn, ...]

    @property
    def grid(self) -> Grid:
        """(T, H, W) in tokens."""
        return self.windows.grid

    @property
    def order(self) -> Order:
        """How q, k and v come."""
        return self.windows.order

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, scale: float | None = None, *, rotary: Rotary) -> Tensor:
        """Attend: q and k [B, heads, L, D] before RoPE, v likewise, and the tables; returns the shape of q.

        Raises:
            ValueError: The shapes do not fit the grid.
        """
        check_tokens(self.windows, q, k, v)
        scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
        turned = rotary.turned(q)
        turned, v = one_dtype(turned, v)
        out = torch.empty_like(turned)
        queries, values, target = (split_axes(x, self.windows) for x in (turned, v, out))
        for turn in self.turns:
            placed = rotary.turned(k, turn.places).to(v.dtype)
            pooled = tuple(pool_tokens(x, self.windows) for x in (placed, v)) if self.windows.pool else ()
            keys = split_axes(placed, self.windows)
            for tile in turn.tiles:
                target[tile.queries] = attend_tile(
                    q=queries[tile.queries], k=keys[tile.keys], v=values[tile.keys], pooled=pooled, mask=tile.mask,
                    scale=scale,
                )  # fmt: skip
        return out


def plan_relative(windows: Windows, kind: Ar, native: NativeGrid | None, device: torch.device | str) -> RelativePlan:
    """Build the tiles of a grid, with the places of their keys and the windows of their queries.

    Args:
        windows: Which keys a query sees: a window over everything is full attention.
        kind: Tile, reach and near.
        native: (H, W) of the native token grid, for a reach that is named after it.
        device: Where q, k and v will live.

    Raises:
        ValueError: A tile is longer than the reach.
    """
    reach, (_, height, width) = kind.reaches(native), windows.grid
    turns = []
    for rows in _parts(height, kind.tile[0]):
        down = relative_positions(height, *rows, reach[0], kind.near[0])
        for columns in _parts(width, kind.tile[1]):
            across = relative_positions(width, *columns, reach[1], kind.near[1])
            turns.append(Turn(_places(windows, down, across).to(device), plan_tiles(windows, device, (rows, columns))))
    return RelativePlan(windows, tuple(turns))


def _parts(length: int, side: int) -> Iterator[tuple[int, int]]:
    """An axis in parts of `side`; the last one may be shorter."""
    return ((start, min(start + side, length)) for start in range(0, length, side))


def _places(windows: Windows, down: Tensor, across: Tensor) -> Tensor:
    """[L]: for each key, in the order of `windows`, the index of the token in whose place it stands."""
    frames, height, width = windows.grid
    index = torch.arange(windows.tokens)
    if windows.order == "hwt":
        index = index.view(height, width, frames)[down][:, across]
    else:
        index = index.view(frames, height, width)[:, down][:, :, across]
    return index.flatten()
