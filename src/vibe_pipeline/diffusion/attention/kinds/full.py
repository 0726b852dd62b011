"""`full`: every query sees every key, as the base was trained."""

import math
from dataclasses import dataclass
from typing import ClassVar

from vibe_pipeline.diffusion.attention.geometry import BACKENDS, Grid, NativeGrid, Windows
from vibe_pipeline.diffusion.attention.kinds.base import AttentionKind, AttentionPlan, Place


@dataclass(frozen=True)
class Full(AttentionKind):
    """Plain attention over all tokens of all frames."""

    name: ClassVar[str] = "full"
    backends: ClassVar[tuple[str, ...]] = BACKENDS
    stock: ClassVar[bool] = True
    windowed: ClassVar[bool] = True
    selective: ClassVar[bool] = True

    def keys(self, grid: Grid, native: NativeGrid | None, layer: int) -> int:
        """All tokens."""
        return math.prod(grid)

    def windows(self, grid: Grid, native: NativeGrid | None, layer: int = 0) -> Windows:
        """One over everything."""
        return Windows(grid, grid[1:])

    def plan(self, place: Place) -> AttentionPlan:
        """A window over everything, which is SDPA without a mask."""
        from vibe_pipeline.diffusion.attention.backends import plan_windows

        return plan_windows(self.windows(place.grid, place.native), place)
