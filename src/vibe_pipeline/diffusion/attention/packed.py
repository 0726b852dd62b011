"""Self-attention of several images in one row of tokens: each attends to itself alone, by the plan of its own grid.

What one block-diagonal mask would say is said by one call an image, so that every kind and backend does for a packed
image what it does for one that is alone, with no mask over the row and none of its empty blocks computed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vibe_pipeline.diffusion.attention.geometry import Grid, Order
from vibe_pipeline.diffusion.attention.kinds import AttentionPlan
from vibe_pipeline.diffusion.attention.rotary import Rotary


@dataclass(frozen=True)
class PackedPlan:
    """The plans of the images of a row, in its order.

    Attributes:
        plans: One an image; stills, so that every order of a plan's tokens is the same.
        scales: Of their scores; None: 1 / sqrt(D).
    """

    plans: tuple[AttentionPlan, ...]
    scales: tuple[float | None, ...]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each image."""
        return [plan.grid[1] * plan.grid[2] for plan in self.plans]

    @property
    def grid(self) -> Grid:
        """A row of all tokens."""
        return 1, 1, sum(self.lengths)

    @property
    def order(self) -> Order:
        """Nothing has to be reordered."""
        return "thw"

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float | None = None, rotary: Rotary | None = None
    ) -> Tensor:
        """Attend: q, k, v [1, heads, L, D], image behind image; `scale` is that of each image."""
        parts, own = [x.split(self.lengths, 2) for x in (q, k, v)], [dict[str, Any]() for _ in self.plans]
        if rotary is not None:
            tables = zip(*(t.split(self.lengths, 1) for t in (rotary.cos, rotary.sin)), strict=True)
            own = [{"rotary": Rotary(*turns)} for turns in tables]
        images = zip(self.plans, *parts, self.scales, own, strict=True)
        found = [plan(*of_image, one, **extra) for plan, *of_image, one, extra in images]
        return torch.cat(found, 2)


def pack_plans(by_image: Sequence[Sequence[AttentionPlan]], scales: Sequence[float | None]) -> tuple[PackedPlan, ...]:
    """One plan a block, of every image's plans by block."""
    return tuple(PackedPlan(plans, tuple(scales)) for plans in zip(*by_image, strict=True))
