"""Which keys a query sees: the inward window, the pooled tiles and the order of the tokens.

Grids are (T, H, W) in tokens, half windows (d_h, d_w) in tokens.
Source: ViBe, arXiv 2603.23326; the published release lacks this code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:  # what a plan asks for, the number of visible keys, needs no tensors
    from torch import Tensor

Grid = tuple[int, int, int]
HalfWindow = tuple[int, int]
NativeGrid = tuple[int, int]
"""(H, W) of the native token grid."""
Order = Literal["thw", "hwt"]
Backend = Literal["auto", "dense", "gather", "flex", "flash"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)


@dataclass(frozen=True)
class Windows:
    """Everything that determines visibility; the key of every plan.

    Attributes:
        grid: (T, H, W) in tokens.
        half_window: (d_h, d_w) in tokens; a window of 2 d + 1 or more than the axis sees the whole axis.
        pool: side of the pooled spatial tiles in tokens; 0 for no pooled keys.
        order: how the grid is flattened to L tokens, slowest axis first.
        proxies: a token of each tile stands for it, in place of the average.
    """

    grid: Grid
    half_window: HalfWindow
    pool: int = 0
    order: Order = "thw"
    proxies: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError with the offending values and the way out."""
        if len(self.grid) != 3 or min(self.grid) < 1:
            raise ValueError(f"grid (T, H, W) must be three positive token counts, not {self.grid}")
        if len(self.half_window) != 2 or min(self.half_window) < 1:
            raise ValueError(f"half window (d_h, d_w) must be two positive token counts, not {self.half_window}")
        if self.order not in ("thw", "hwt"):
            raise ValueError(f"unknown token order {self.order!r}: use 'thw' or 'hwt'")
        _check_pool(self.grid, self.pool)

    @property
    def tokens(self) -> int:
        """L, the tokens of the grid."""
        return math.prod(self.grid)

    @property
    def pooled(self) -> int:
        """P, the pooled keys: one for each tile of each frame."""
        return self.tokens // self.pool**2 if self.pool else 0

    @property
    def sizes(self) -> tuple[int, int]:
        """Keys seen along height and width; the same for every query."""
        (d_h, d_w), (_, height, width) = self.half_window, self.grid
        return min(2 * d_h + 1, height), min(2 * d_w + 1, width)

    @property
    def keys_per_query(self) -> int:
        """Keys that every query is compared with: those of its window over all frames, and the pooled ones."""
        return self.grid[0] * math.prod(self.sizes) + self.pooled

    @property
    def is_full(self) -> bool:
        """Whether this is plain full attention: the window covers the grid and nothing is pooled."""
        return not self.pool and self.sizes == self.grid[1:]


def _check_pool(grid: Grid, pool: int) -> None:
    if pool < 0:
        raise ValueError(f"pool must be 0 (no pooled keys) or a tile side in tokens, not {pool}")
    if not pool:
        return
    for name, size in zip(("height", "width"), grid[1:], strict=True):
        if size % pool:
            below, above = size // pool * pool, -(-size // pool) * pool
            nearest = f"{below} or {above}" if below else f"{above}"
            raise ValueError(
                f"token grid {grid} does not divide by pool {pool}: {name} {size} tokens; nearest that does: {nearest}"
            )


def check_tokens(windows: Windows, q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raise ValueError unless q, k, v are [B, heads, L, D] with L the tokens of the grid."""
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.ndim != 4 or x.shape[2] != windows.tokens:
            raise ValueError(
                f"{name} has shape {tuple(x.shape)}, but grid (T, H, W) = {windows.grid} needs "
                f"[B, heads, {windows.tokens}, D]"
            )


def window_starts(length: int, half: int) -> Tensor:
    """First visible key of each query on one axis, after the inward push.

    The window q - d - du <= k <= q + d + db, cut to the axis, is the run of min(2 d + 1, length) keys
    that starts at q - d pushed into [0, length - 2 d - 1].

    Returns:
        int64 [length].
    """
    import torch

    return (torch.arange(length) - half).clamp(0, max(length - 2 * half - 1, 0))


def axis_mask(length: int, half: int) -> Tensor:
    """Visibility along one axis: bool [length, length], queries by keys."""
    import torch

    offset = torch.arange(length) - window_starts(length, half)[:, None]
    return (offset >= 0) & (offset <= 2 * half)


def inward_window_mask(grid: Grid, half_window: HalfWindow) -> Tensor:
    """The inward sliding window as a dense mask: the reference for every backend.

    Args:
        grid: (T, H, W) in tokens.
        half_window: (d_h, d_w) in tokens.

    Returns:
        bool [L, L], queries by keys, tokens in (t, h, w) order; L^2 bytes, so for small grids only.

    Raises:
        ValueError: for grids or windows that are not positive.
    """
    windows = Windows(grid, half_window)
    frames, height, width = grid
    rows = axis_mask(height, half_window[0])[None, :, None, None, :, None]
    columns = axis_mask(width, half_window[1])[None, None, :, None, None, :]
    visible = (rows & columns).expand(frames, height, width, frames, height, width)
    return visible.reshape(windows.tokens, windows.tokens)


def split_axes(x: Tensor, windows: Windows) -> Tensor:
    """View [B, heads, L, D], in the order of `windows`, as [B, heads, T, H, W, D]."""
    frames, height, width = windows.grid
    if windows.order == "hwt":
        return x.unflatten(2, (height, width, frames)).permute(0, 1, 4, 2, 3, 5)
    return x.unflatten(2, (frames, height, width))


def pool_tokens(x: Tensor, windows: Windows, chosen: Tensor | None = None) -> Tensor:
    """What stands for the pool x pool spatial tiles of each frame: [B, heads, L, D] -> [B, heads, P, D].

    Their average, or with `proxies` one of their tokens, drawn once for a grid.

    Args:
        x: Keys or values.
        windows: The geometry.
        chosen: With `proxies`, their `proxy_index` on the device of x; None: drawn here, which torch.compile cannot
            look into and a GPU waits for.
    """
    f = windows.pool
    tiles = split_axes(x, windows).unflatten(4, (-1, f)).unflatten(3, (-1, f))
    if not windows.proxies:
        return tiles.mean(dim=(4, 6)).flatten(2, 4)
    tiles = tiles.movedim(5, 4).flatten(5, 6)  # [B, heads, T, H / f, W / f, f f, D]
    chosen = proxy_index(windows).to(x.device) if chosen is None else chosen
    return tiles.take_along_dim(chosen[None, None, ..., None, None], 5).squeeze(5).flatten(2, 4)


def proxy_index(windows: Windows) -> Tensor:
    """Which token of each tile stands for it, counted by rows within it: int64 [T, H / pool, W / pool]."""
    import torch

    frames, height, width = windows.grid
    shape = (frames, height // windows.pool, width // windows.pool)
    return torch.randint(windows.pool**2, shape, generator=torch.Generator().manual_seed(0))


def reorder_tokens(x: Tensor, grid: Grid, dim: int, order: Order) -> Tensor:
    """Bring the token axis `dim` of x, of length L, from the other order into `order`."""
    frames, height, width = grid
    before = (frames, height * width) if order == "hwt" else (height * width, frames)
    dim = dim % x.ndim
    return x.unflatten(dim, before).transpose(dim, dim + 1).flatten(dim, dim + 1)
