"""What a kind of rotary positions is; `rope.ROPES` lists them. Torch is imported where tables are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import Tensor

THETA = 10000.0
Grid = tuple[int, int, int]


@dataclass(frozen=True)
class RopePlace:
    """Where positions are asked for, in one forward.

    Attributes:
        grid: (T, H, W) in tokens.
        native: (H, W) of the native token grid.
        sigma: The noise level; 1 is pure noise.
    """

    grid: Grid
    native: tuple[int, int]
    sigma: float = 1.0

    @property
    def trained(self) -> Grid:
        """The longest axes that the base knows; a native grid lies as the grid does."""
        turned = (self.grid[1] - self.grid[2]) * (self.native[0] - self.native[1]) < 0
        height, width = self.native[::-1] if turned else self.native
        return self.grid[0], height, width

    @property
    def ratios(self) -> tuple[float, float, float]:
        """How much longer than that each axis is, 1 at the least; time is as long as it was."""
        frames, height, width = (max(1.0, n / known) for n, known in zip(self.grid, self.trained, strict=True))
        return frames, height, width


def ntk_angles(positions: Tensor, dim: int, alpha: float = 1.0, theta: float = THETA) -> Tensor:
    """Angles of rotary pairs on one axis: position x (alpha theta)^(-2 j / dim), j = 0 … dim/2 - 1.

    alpha multiplies theta directly, as CineScale has it (arXiv 2508.15774, `precompute_freqs_cis_ntk`); the highest
    frequency stays, the lowest is divided by alpha^((dim - 2) / dim).

    Args:
        positions: [L], any number type.
        dim: Channels of the axis, even.
        alpha: 1 is plain RoPE.
        theta: Base of the frequencies.

    Returns:
        float64 [L, dim/2], in radians.

    Raises:
        ValueError: An odd or empty dim, or an alpha or theta that is not positive.
    """
    import torch

    if dim < 2 or dim % 2:
        raise ValueError(f"rotary channels come in pairs: dim {dim} is not a positive even number")
    if alpha <= 0 or theta <= 0:
        raise ValueError(f"alpha and theta must be positive, not {alpha} and {theta}")
    # The expression of diffusers' own tables, so that alpha 1 gives them to the last bit.
    frequencies = 1.0 / ((theta * alpha) ** (torch.arange(0, dim, 2, dtype=torch.float64) / dim))
    return torch.outer(positions.to(torch.float64), frequencies)


@dataclass(frozen=True)
class RopeKind:
    """One way of giving tokens their places; subclasses fill in what differs, and their fields are a row's.

    Attributes:
        name: As `rope.kind` says it.
        stock: It is what diffusers computes.
        scaled: Its angles follow from the token grid at work, the native one and the noise level: `angles_at`.
        relative: Keys stand elsewhere for every tile of queries: attention applies it (attention/relative.py).
        copies: Of a relative kind: as those of an attention kind, in whose place they count.
    """

    name: ClassVar[str]
    stock: ClassVar[bool] = False
    scaled: ClassVar[bool] = False
    relative: ClassVar[bool] = False
    copies: ClassVar[float] = 0

    def angles(self, axis: int, positions: Tensor, dim: int) -> Tensor:
        """Angles [L, dim/2] of an axis (0 t, 1 h, 2 w), float64."""
        return ntk_angles(positions, dim)

    def angles_at(self, axis: int, positions: Tensor, dim: int, at: RopePlace) -> Tensor:
        """Of a scaled kind: angles [L, dim/2] of an axis (0 t, 1 h, 2 w), float64, in the running forward."""
        return self.angles(axis, positions, dim)

    def amplitude(self, at: RopePlace) -> float:
        """Of a scaled kind: what cos and sin are multiplied by, and so the scores by its square."""
        return 1.0

    def check(self, grid: tuple[int, int, int], native: tuple[int, int]) -> None:
        """Refuse a token grid (T, H, W) that it cannot place; `native` is (H, W) of the native one.

        Raises:
            ValueError: Names the field and the way out.
        """

    def words(self) -> tuple[str, ...]:
        """What the report says of it; nothing of the stock kind."""
        return (f"{self.name} RoPE",)
