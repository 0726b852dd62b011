"""`window`: the inward sliding window alone, of native size and over all frames (FreeSwim, arXiv 2511.14712)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field, PositiveInt

from vibe_pipeline.diffusion.attention.choice import Kernel, kernel_of
from vibe_pipeline.diffusion.attention.geometry import BACKENDS, Grid, HalfWindow, NativeGrid, Windows
from vibe_pipeline.diffusion.attention.kinds.base import AttentionKind, AttentionPlan, Place


@dataclass(frozen=True)
class Window(AttentionKind):
    """Every query sees the same number of keys around it: windows that would stick out are pushed inward.

    Attributes:
        half_window: (d_h, d_w) in tokens; None: half the native token grid.
    """

    name: ClassVar[str] = "window"
    backends: ClassVar[tuple[str, ...]] = BACKENDS
    local: ClassVar[bool] = True
    windowed: ClassVar[bool] = True
    selective: ClassVar[bool] = True

    half_window: Annotated[
        tuple[PositiveInt, PositiveInt] | None, Field(description="(d_h, d_w) in tokens; None: half the native grid")
    ] = None

    @property
    def tile(self) -> int:
        """Side of the pooled tiles in tokens; 0: there are none."""
        return 0

    def windows(self, grid: Grid, native: NativeGrid | None, layer: int = 0) -> Windows:
        """Which keys a query sees.

        Raises:
            ValueError: The grid does not divide by the tiles.
        """
        return Windows(grid, self._half(grid, native), self.tile)

    def keys(self, grid: Grid, native: NativeGrid | None, layer: int) -> int:
        """Those of the window over all frames, and the pooled ones."""
        return self.windows(grid, native, layer).keys_per_query

    def kernels(self, grid: Grid, native: NativeGrid | None, layer: int, device: str) -> dict[Kernel, float]:
        """By the backend that suits the grid."""
        name, keys = kernel_of(self.windows(grid, native, layer), device)
        return {name: keys}

    def plan(self, place: Place) -> AttentionPlan:
        """By the place's backend."""
        from vibe_pipeline.diffusion.attention.backends import plan_windows

        return plan_windows(self.windows(place.grid, place.native, place.layer), place)

    def check(self, native: NativeGrid | None) -> None:
        """Positive windows, or a native grid to take them from."""
        if self.half_window is None:
            _sides(native)
        side = max(self.tile, 1)
        self.windows((1, side, side), native)  # any grid that divides by the tiles will do

    def words(self) -> tuple[str, ...]:
        """A window of its own."""
        return ("half window {}x{}".format(*self.half_window),) if self.half_window else ()

    def _half(self, grid: Grid, native: NativeGrid | None) -> HalfWindow:
        """Half the native grid lies as the grid does: the native size of an upright image is the native size turned."""
        if self.half_window is not None:
            d_h, d_w = self.half_window
            return d_h, d_w
        d_h, d_w = (max(1, n // 2) for n in _sides(native))
        turned = (grid[1] - grid[2]) * (d_h - d_w) < 0
        return (d_w, d_h) if turned else (d_h, d_w)


def _sides(native: NativeGrid | None) -> NativeGrid:
    """A native grid to take a window from.

    Raises:
        ValueError: There is none, or it has not two sides.
    """
    if native is None:
        raise ValueError("half_window is None, that is half the native grid: give native_grid (H, W) in tokens")
    if len(native) != 2:
        raise ValueError(f"native_grid must be (H, W) in tokens, not {native}")
    return native
