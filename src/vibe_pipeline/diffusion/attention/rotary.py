"""Rotary position embeddings as diffusers' Wan transformers apply them."""

from dataclasses import dataclass

import torch
from torch import Tensor


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Wan's RoPE on [B, L, heads, D]; tables [1, L, 1, D], each angle twice in a row."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[..., 0::2], sin[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2).type_as(x)


@dataclass(frozen=True)
class Rotary:
    """The tables of a forward, for attention kinds that apply RoPE themselves.

    Attributes:
        cos: [1, L, 1, D], each angle twice in a row; token i of the plan's order stands in row i.
        sin: Sines of the same angles, laid out as cos.
    """

    cos: Tensor
    sin: Tensor

    def turned(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
        """RoPE on x [B, heads, L, D].

        Args:
            x: Queries or keys before RoPE.
            positions: int64 [L]: the token in whose place each token stands. Positions lie on the grid, and a row of
                the tables holds the angles of all three axes, so whatever moves positions on the grid is an index.
                None: each in its own place.
        """
        tables = (self.cos, self.sin) if positions is None else (t[:, positions] for t in (self.cos, self.sin))
        return rotate(x, *(t.transpose(1, 2) for t in tables))
