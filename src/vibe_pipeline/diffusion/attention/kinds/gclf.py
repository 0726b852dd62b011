"""`gclf`: Global-Coarse-Local-Fine attention, the window and pooled tiles in one softmax (ViBe, arXiv 2603.23326)."""

import math
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from pydantic import Field, PositiveInt

from vibe_pipeline.diffusion.attention.geometry import Grid, NativeGrid, Windows
from vibe_pipeline.diffusion.attention.kinds.window import Window

TileSide = Annotated[int, Field(ge=2, description="side of the pooled tiles in tokens, for gclf")]


@dataclass(frozen=True)
class Gclf(Window):
    """The window, and beside it keys and values averaged over spatial tiles of each frame, which every query sees.

    Attributes:
        pool: Side of the tiles in tokens.
        deep_from: First block with other tiles, counted from 0; None: all blocks have the same (the paper's).
        deep_pool: Side of the tiles from there on; 0: the window alone.
    """

    name: ClassVar[str] = "gclf"
    local: ClassVar[bool] = False
    copies: ClassVar[float] = 2  # keys and values once more, in a row with the pooled ones

    pool: TileSide = 2
    deep_from: Annotated[
        PositiveInt | None, Field(description="gclf: first block, from 0, that pools by deep_pool; None: none does")
    ] = None
    deep_pool: Annotated[
        int | None, Field(ge=0, description="gclf: side of the tiles from there on; 0: the window alone")
    ] = None

    def __post_init__(self) -> None:
        """Refuse fields that exclude each other, or one without the other.

        Raises:
            ValueError: Names both.
        """
        if (self.deep_from is None) != (self.deep_pool is None):
            raise ValueError("deep_from and deep_pool go together: the first block that pools otherwise, and its tiles")
        if self.deep_pool == 1:
            raise ValueError("deep_pool 1 would be every key twice: give 2 or more, or 0 for the window alone")
        if self.deep_pool == self.pool:
            raise ValueError(f"deep_pool {self.deep_pool} is pool itself: give another, or leave deep_from out")

    @property
    def tile(self) -> int:
        """Side of the pooled tiles in tokens; of the first blocks, where others have other tiles."""
        return self.pool

    def windows(self, grid: Grid, native: NativeGrid | None, layer: int = 0) -> Windows:
        """By the tiles of the layer."""
        found = super().windows(grid, native)
        return replace(found, pool=self.deep_pool) if self.deep_pool is not None and self.variant(layer) else found

    def check(self, native: NativeGrid | None) -> None:
        """There are tiles."""
        if self.pool < 1:
            raise ValueError(f"kind 'gclf' needs pooled keys, but pool is {self.pool}: use kind 'window' for none")
        super().check(native)

    def require_layers(self, layers: int) -> None:
        """There are blocks with the other tiles."""
        if self.deep_from is not None and self.deep_from >= layers:
            raise ValueError(
                f"deep_from {self.deep_from}: the transformer's last block is {layers - 1}; give it or less"
            )

    def multiples(self, grid: Grid) -> Grid:
        """Frames are cut into whole tiles, in every block."""
        side = math.lcm(self.pool, self.deep_pool or 1)
        return (1, side, side)

    def variant(self, layer: int) -> bool:
        """Whether it is one of the deeper blocks."""
        return self.deep_from is not None and layer >= self.deep_from

    def words(self) -> tuple[str, ...]:
        """The tiles, those of the deeper blocks, then the window."""
        tiles = f"{self.deep_pool}×" if self.deep_pool else "window alone"
        deep = () if self.deep_from is None else (f"{tiles} from block {self.deep_from} on",)
        return (f"{self.pool}×", *deep, *super().words())
