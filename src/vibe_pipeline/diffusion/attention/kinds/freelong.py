"""`freelong`: a global and a local pass, blended by frequency (FreeLong, arXiv 2407.19918)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, cast

from pydantic import Field, PositiveInt

from vibe_pipeline.diffusion.attention.choice import Kernel, choose_sparse, kernel_of
from vibe_pipeline.diffusion.attention.geometry import Backend, Grid, NativeGrid, Order, Windows
from vibe_pipeline.diffusion.attention.kinds.base import AttentionPlan, Place
from vibe_pipeline.diffusion.attention.kinds.gclf import Gclf, TileSide
from vibe_pipeline.diffusion.attention.kinds.window import Window

Stop = Annotated[float, Field(gt=0, le=1)] | None
NATIVE_FRAMES = 10
"""Half of the 21 latent frames that Wan's 81 frames are."""


@dataclass(frozen=True)
class FreeLong(Window):
    """Low frequencies of what every query gets from everywhere, high ones of what it gets from nearby.

    As published the local pass is near in time, for clips longer than native, and the global one is full attention.
    Near in space, for frames larger than native, and GCLF as the global pass, for less work, are ours.

    Attributes:
        pool: Side of the tiles of GCLF, in tokens.
        window_axes: Along what the local pass is a window: the frame (`space`, all frames) or `time` (whole frames).
        half_frames: Of the window over time, in latent frames; None: 10.
        global_pass: `full` attention, or `gclf` with the same window and `pool`.
        low_pass: Shape of the filter over time, height and width.
        stop_time: Where it falls off over time, as a share of the highest frequency; None: not filtered over time.
        stop_space: Likewise over height and width.
    """

    name: ClassVar[str] = "freelong"
    local: ClassVar[bool] = False
    windowed: ClassVar[bool] = False
    selective: ClassVar[bool] = False
    copies: ClassVar[float] = 4  # both outputs, and of GCLF keys and values in a row with the pooled ones

    pool: TileSide = Gclf.pool
    window_axes: Annotated[
        Literal["space", "time"], Field(description="freelong: the local pass is near in space (ours) or time (theirs)")
    ] = "space"
    half_frames: Annotated[
        PositiveInt | None, Field(description="freelong over time: latent frames seen to either side; None: 10")
    ] = None
    global_pass: Annotated[
        Literal["full", "gclf"], Field(description="freelong: what low frequencies are of; gclf (ours) costs less")
    ] = "full"
    low_pass: Annotated[
        Literal["gaussian", "butterworth"], Field(description="freelong: the filter's shape; gaussian is theirs")
    ] = "gaussian"
    stop_time: Annotated[
        Stop, Field(description="freelong: where the filter falls off over time, share of the highest; None: nowhere")
    ] = 0.25
    stop_space: Annotated[
        Stop, Field(description="freelong: where the filter falls off in space, share of the highest; None: nowhere")
    ] = 0.25

    def __post_init__(self) -> None:
        """Refuse fields that exclude each other.

        Raises:
            ValueError: Names both.
        """
        if self.window_axes == "space" and self.half_frames is not None:
            raise ValueError("half_frames is of a window over time: set window_axes to time, or leave it out")
        if self.window_axes == "time" and self.half_window is not None:
            raise ValueError("half_window is of a window in space: set window_axes to space, or leave it out")
        if self.window_axes == "time" and self.global_pass == "gclf":
            raise ValueError("global_pass gclf has a window in space: set window_axes to space, or global_pass to full")
        if self.global_pass == "full" and self.pool != Gclf.pool:
            raise ValueError("pool is of global_pass gclf: choose that, or leave pool out")
        if self.global_pass == "gclf" and self.pool < 1:
            raise ValueError(f"global_pass gclf needs pooled keys, but pool is {self.pool}: give 2 or more")
        if self.stop_time is None and self.stop_space is None:
            raise ValueError("stop_time and stop_space are both none: nothing would come from the local pass")

    @property
    def tile(self) -> int:
        """Side of the pooled tiles of the global pass; 0: it is full attention."""
        return self.pool if self.global_pass == "gclf" else 0

    def keys(self, grid: Grid, native: NativeGrid | None, layer: int) -> int:
        """Those of both passes."""
        if self.window_axes == "time":
            return math.prod(grid) + self._frames(grid[0]) * grid[1] * grid[2]
        return sum(windows.keys_per_query for windows in self._passes(grid, native))

    def kernels(self, grid: Grid, native: NativeGrid | None, layer: int, device: str) -> dict[Kernel, float]:
        """Those of both passes; over time both are SDPA."""
        if self.window_axes == "time":
            return {"sdpa": float(self.keys(grid, native, layer))}
        found: dict[Kernel, float] = {}
        for windows in self._passes(grid, native):
            name, keys = kernel_of(windows, device, choose_sparse(windows, "auto", device))
            found[name] = found.get(name, 0.0) + keys
        return found

    def plan(self, place: Place) -> AttentionPlan:
        """Both passes, their tokens in one order, and the filter."""
        from vibe_pipeline.diffusion.attention.spectral import SpectralPlan, low_pass_gains

        overall, near = self._both(place)
        gains = low_pass_gains(place.grid, self.low_pass, (self.stop_time, self.stop_space)).to(place.device)
        return SpectralPlan(overall, near, gains)

    def check(self, native: NativeGrid | None) -> None:
        """A window in space has a size."""
        if self.window_axes == "space":
            super().check(native)

    def multiples(self, grid: Grid) -> Grid:
        """Tiles of GCLF; and over time there are more frames than the window has."""
        if self.window_axes == "time" and self._frames(grid[0]) == grid[0]:
            raise ValueError(
                f"freelong over time has nothing to blend in {grid[0]} latent frames, all of which its window of "
                f"{2 * self._half_frames + 1} sees: set half_frames lower, or window_axes to space"
            )
        side = max(self.tile, 1)
        return (1, side, side)

    def words(self) -> tuple[str, ...]:
        """What differs from the defaults."""
        window = ("half window {}x{}".format(*self.half_window),) if self.half_window else ()
        if self.window_axes == "time":
            window = (f"over time, {self._half_frames} frames to either side",)
        coarse = (f"global pass GCLF {self.pool}×",) if self.global_pass == "gclf" else ()
        stops = (self.stop_time, self.stop_space)
        usual = self.low_pass == FreeLong.low_pass and stops == (FreeLong.stop_time, FreeLong.stop_space)
        said = "{} stops {} and {}".format(self.low_pass, *("none" if x is None else f"{x:g}" for x in stops))
        return (*window, *coarse, *(() if usual else (said,)))

    @property
    def _half_frames(self) -> int:
        return NATIVE_FRAMES if self.half_frames is None else self.half_frames

    def _frames(self, frames: int) -> int:
        """How many frames a query of the local pass sees over time."""
        return min(2 * self._half_frames + 1, frames)

    def _passes(self, grid: Grid, native: NativeGrid | None) -> tuple[Windows, Windows]:
        """Global and local, with a window in space."""
        own = self.windows(grid, native)
        return (own if self.tile else Windows(grid, grid[1:])), replace(own, pool=0)

    def _both(self, place: Place) -> tuple[AttentionPlan, AttentionPlan]:
        from vibe_pipeline.diffusion.attention.backends import plan_windows
        from vibe_pipeline.diffusion.attention.spectral import plan_frames

        if self.window_axes == "time":
            order: Order = place.order or "thw"
            whole = Windows(place.grid, (place.grid[1], place.grid[2]))
            return plan_windows(whole, replace(place, order=order)), plan_frames(place.grid, self._half_frames, order)
        overall, near = self._passes(place.grid, place.native)
        local = plan_windows(near, _sparse(place, near))
        return plan_windows(overall, replace(_sparse(place, overall), order=local.order)), local


def _sparse(place: Place, windows: Windows) -> Place:
    """The place, with the backend of windows that stand beside another pass."""
    import torch

    device = torch.device(place.device).type
    return replace(place, backend=choose_sparse(windows, cast("Backend", place.backend), device))
