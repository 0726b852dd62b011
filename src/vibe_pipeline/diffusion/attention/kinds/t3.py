"""`t3`: attention within groups of tokens that change from layer to layer (T3-Video, arXiv 2512.13492).

Read off the released code (zhangzjn/T3-Video, `diffsynth/models/wan_video_dit.py`, Apache-2.0), which asks as this does
that groups divide the grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field, PositiveInt

from vibe_pipeline.diffusion.attention.geometry import Grid, NativeGrid, Order, reorder_tokens
from vibe_pipeline.diffusion.attention.kinds.base import AttentionKind, AttentionPlan, FunctionPlan, Place

if TYPE_CHECKING:
    from torch import Tensor

Groups = tuple[PositiveInt, PositiveInt, PositiveInt]
"""(n_t, n_h, n_w): into how many parts each axis is cut."""

PUBLISHED: MappingProxyType[Grid, tuple[Groups, ...]] = MappingProxyType(
    {
        # 2176x3840, 81 frames: on the 5B, where a token is 32 pixels, and on the 1.3B, where it is 16.
        (21, 68, 120): ((21, 1, 1), (1, 17, 20), (1, 17, 6), (3, 4, 15), (7, 4, 8)),
        (21, 136, 240): ((21, 1, 1), (1, 17, 30), (1, 8, 40), (3, 17, 8), (7, 8, 6)),
    }
)
"""Groups of the released models by their token grid; layer i has those of i mod 5."""


@dataclass(frozen=True)
class T3(AttentionKind):
    """The mean of attention within contiguous boxes and within dilated ones, by the groups of the layer's type.

    Attributes:
        groups: One (n_t, n_h, n_w) a layer type; layer i is of type i mod their number. None: those published for the
            token grid.
    """

    name: ClassVar[str] = "t3"
    copies: ClassVar[float] = 4  # q, k and v by groups, and the output of the other boxes

    groups: Annotated[
        tuple[Groups, ...] | None,
        Field(min_length=1, description="(n_t, n_h, n_w) a layer type, for t3; None: the published, by token grid"),
    ] = None

    def keys(self, grid: Grid, native: NativeGrid | None, layer: int) -> int:
        """A group of each of both sorts; of one, where both are the same."""
        groups = self._groups(grid, layer)
        require_groups(grid, groups)
        return math.prod(grid) // math.prod(groups) * (1 if computed_once(grid, groups) else 2)

    def plan(self, place: Place) -> AttentionPlan:
        """SDPA on the groups of the layer's type; tokens in (h, w, t) order are sorted around it."""
        groups, order = self._groups(place.grid, place.layer), place.order or "thw"
        require_groups(place.grid, groups)
        return FunctionPlan(place.grid, partial(_in_order, place.grid, groups, order), order)

    def multiples(self, grid: Grid) -> Grid:
        """What all layer types divide."""
        t, h, w = (math.lcm(*axis) for axis in zip(*self._types(grid), strict=True))
        return t, h, w

    def variant(self, layer: int) -> int:
        """The layer's type."""
        return layer % (len(self.groups) if self.groups else 5)

    def words(self) -> tuple[str, ...]:
        """Groups of its own."""
        return ("groups " + " ".join("{}x{}x{}".format(*g) for g in self.groups),) if self.groups else ()

    def _types(self, grid: Grid) -> tuple[Groups, ...]:
        types = self.groups or PUBLISHED.get((grid[0], grid[1], grid[2]))
        if types is None:
            raise ValueError(
                f"T3-Video's groups are published for the token grids (T, H, W) = {' and '.join(map(str, PUBLISHED))}, "
                f"not for {tuple(grid)}: choose 2176x3840 with 81 frames, or give attention.groups of your own"
            )
        return types

    def _groups(self, grid: Grid, layer: int) -> Groups:
        types = self._types(grid)
        return types[layer % len(types)]


def t3_attention(q: Tensor, k: Tensor, v: Tensor, grid: Grid, groups: Groups, scale: float | None = None) -> Tensor:
    """The mean of attention within boxes of neighbours ("close") and within dilated boxes ("remote").

    The grid T x H x W is cut into n_t n_h n_w groups of (T/n_t) (H/n_h) (W/n_w) tokens: close ones are contiguous
    boxes, remote ones take every n-th token along each axis. Where both are the same groups, as with one frame each,
    attention is computed once.

    Args:
        q: Queries [B, heads, L, D] after RoPE, L = T H W tokens in (t, h, w) order.
        k: Keys, likewise.
        v: Values, likewise.
        grid: (T, H, W) in tokens.
        groups: (n_t, n_h, n_w); (1, 1, 1) is full attention.
        scale: Of the scores; None: 1 / sqrt(D).

    Returns:
        [B, heads, L, D].

    Raises:
        ValueError: The groups do not divide the grid, or q, k, v are not of its tokens; names the numbers.
    """
    require_groups(grid, groups)
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.ndim != 4 or x.shape[2] != math.prod(grid):
            raise ValueError(
                f"{name} has shape {tuple(x.shape)}, but grid {grid} needs [B, heads, {math.prod(grid)}, D]"
            )
    close = _attend(q, k, v, grid, groups, dilated=False, scale=scale)
    if computed_once(grid, groups):
        return close
    return close.add(_attend(q, k, v, grid, groups, dilated=True, scale=scale)).mul_(0.5)


def require_groups(grid: Grid, groups: Groups) -> None:
    """Refuse groups that do not divide a token grid.

    Raises:
        ValueError: Names both, and the nearest grid that they divide.
    """
    if len(grid) != 3 or len(groups) != 3 or min(*grid, *groups) < 1:
        raise ValueError(f"grid and groups are three positive numbers each (t, h, w), not {grid} and {groups}")
    if any(size % n for size, n in zip(grid, groups, strict=True)):
        nearest = tuple(max(n, round(size / n) * n) for size, n in zip(grid, groups, strict=True))
        raise ValueError(f"groups {tuple(groups)} do not divide token grid {tuple(grid)}; they divide {nearest}")


def computed_once(grid: Grid, groups: Groups) -> bool:
    """Whether contiguous and dilated boxes are the same: each axis is whole, or every token of it is for itself."""
    return all(n in (1, size) for size, n in zip(grid, groups, strict=True))


def _in_order(grid: Grid, groups: Groups, order: Order, q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
    """As a plan is called: tokens in `order`, and types as autocast has them."""
    from vibe_pipeline.diffusion.attention.backends import one_dtype

    q, k, v = one_dtype(q, k, v)
    if order == "thw":
        return t3_attention(q, k, v, grid, groups, scale)
    q, k, v = (reorder_tokens(x, grid, 2, "thw") for x in (q, k, v))
    return reorder_tokens(t3_attention(q, k, v, grid, groups, scale), grid, 2, "hwt")


def _attend(
    q: Tensor, k: Tensor, v: Tensor, grid: Grid, groups: Groups, *, dilated: bool, scale: float | None
) -> Tensor:
    from torch.nn.functional import scaled_dot_product_attention  # here: plans and checks read the entry without torch

    q, k, v = (_grouped(x, grid, groups, dilated) for x in (q, k, v))
    return _together(scaled_dot_product_attention(q, k, v, scale=scale), grid, groups, dilated)


def _grouped(x: Tensor, grid: Grid, groups: Groups, dilated: bool) -> Tensor:
    """[B, heads, L, D] -> [B G, heads, L / G, D]: groups stand in the batch, where whole frames need no copy."""
    x = x.unflatten(2, grid)
    for axis, n in zip((4, 3, 2), groups[::-1], strict=True):  # from behind, so that places in front stay
        x = x.unflatten(axis, (-1, n) if dilated else (n, -1))
    firsts = 2, 4, 6  # each axis is two now; the group is counted by the first of them, in dilated boxes by the second
    group, within = ([place + second for place in firsts] for second in (dilated, not dilated))
    return x.permute(0, *group, 1, *within, 8).flatten(5, 7).flatten(0, 3)


def _together(x: Tensor, grid: Grid, groups: Groups, dilated: bool) -> Tensor:
    """The way back: [B G, heads, L / G, D] -> [B, heads, L, D]."""
    sides = [size // n for size, n in zip(grid, groups, strict=True)]
    x = x.unflatten(2, sides).unflatten(0, (-1, *groups))  # B, group (3), heads, within (3), D
    group, within = (1, 2, 3), (5, 6, 7)
    axes = zip(within, group, strict=True) if dilated else zip(group, within, strict=True)
    return x.permute(0, 4, *(place for axis in axes for place in axis), 8).flatten(2, 7)
