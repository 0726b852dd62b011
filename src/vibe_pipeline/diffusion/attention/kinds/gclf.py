"""`gclf`: Global-Coarse-Local-Fine attention, the window and pooled tiles in one softmax (ViBe, arXiv 2603.23326)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from vibe_pipeline.diffusion.attention.geometry import Grid, NativeGrid
from vibe_pipeline.diffusion.attention.kinds.window import Window


@dataclass(frozen=True)
class Gclf(Window):
    """The window, and beside it keys and values averaged over spatial tiles of each frame, which every query sees.

    Attributes:
        pool: Side of the tiles in tokens.
    """

    name: ClassVar[str] = "gclf"
    local: ClassVar[bool] = False
    copies: ClassVar[float] = 2  # keys and values once more, in a row with the pooled ones

    pool: Annotated[int, Field(ge=2, description="side of the pooled tiles in tokens, for gclf")] = 2

    @property
    def tile(self) -> int:
        """Side of the pooled tiles in tokens."""
        return self.pool

    def check(self, native: NativeGrid | None) -> None:
        """There are tiles."""
        if self.pool < 1:
            raise ValueError(f"kind 'gclf' needs pooled keys, but pool is {self.pool}: use kind 'window' for none")
        super().check(native)

    def multiples(self, grid: Grid) -> Grid:
        """Frames are cut into whole tiles."""
        return (1, self.pool, self.pool)

    def words(self) -> tuple[str, ...]:
        """The tiles, then the window."""
        return (f"{self.pool}×", *super().words())
