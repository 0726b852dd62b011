"""FreeLong's spectral blend (arXiv 2407.19918): low frequencies of a global pass, high ones of a local pass.

Read off the released code (aniki-ly/FreeLong, `freelong_utils.py`, `attention.py`), which blends after the output
projection: the same, since that mixes channels and the blend mixes places.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import groupby

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from vibe_pipeline.diffusion.attention.backends import one_dtype
from vibe_pipeline.diffusion.attention.geometry import Grid, Order
from vibe_pipeline.diffusion.attention.kinds.base import AttentionPlan, FunctionPlan

BUTTERWORTH_ORDER = 4  # FreeInit's, whose filters FreeLong takes over

Stops = tuple[float | None, float | None]
"""(time, space): frequencies at which the filter falls off, as shares of the highest; None: all of an axis pass."""


def low_pass_gains(grid: Grid, shape: str, stops: Stops) -> Tensor:
    """Gains of a low-pass filter on the half spectrum that `torch.fft.rfftn` gives of a real (T, H, W) grid.

    With r^2 = (f_t / d_t)^2 + (f_h / d_s)^2 + (f_w / d_s)^2, f from -1 to 1 in units of the highest frequency:
    gaussian exp(-r^2 / 2); butterworth 1 / (1 + r^8). The release's grid of f is half a bin off where an axis is odd;
    this one has f = 0 at the mean.

    Args:
        grid: (T, H, W) in tokens.
        shape: `gaussian` or `butterworth`.
        stops: (d_t, d_s).

    Returns:
        float32 [T, H, W // 2 + 1], 1 at frequency 0.
    """
    parts = []
    for axis, (size, stop) in enumerate(zip(grid, (stops[0], stops[1], stops[1]), strict=True)):
        bins = torch.fft.rfftfreq(size) if axis == 2 else torch.fft.fftfreq(size)
        parts.append(torch.zeros_like(bins) if stop is None else (2 * bins / stop).square())
    t, h, w = parts
    squared = t[:, None, None] + h[None, :, None] + w[None, None, :]
    return 1 / (1 + squared**BUTTERWORTH_ORDER) if shape == "butterworth" else torch.exp(-squared / 2)


def spectral_blend(overall: Tensor, near: Tensor, gains: Tensor, grid: Grid, order: Order = "thw") -> Tensor:
    """IFFT3[G FFT3(overall) + (1 - G) FFT3(near)], as near + IFFT3[G FFT3(overall - near)]: one pair of FFTs.

    Args:
        overall: Output of the global pass, [B, heads, L, D].
        near: That of the local pass.
        gains: G, as `low_pass_gains` gives it.
        grid: (T, H, W) in tokens.
        order: How the grid is flattened to L tokens.

    Returns:
        [B, heads, L, D] in the type of `near`; computed in float32, a head at a time.
    """
    frames, height, width = grid
    shape, dims = (grid, (1, 2, 3)) if order == "thw" else ((height, width, frames), (3, 1, 2))
    by_axes = (gains if order == "thw" else gains.permute(1, 2, 0))[..., None]

    def of_head(far: Tensor, close: Tensor) -> Tensor:
        change = (far.float() - close.float()).unflatten(1, shape)
        spectrum = torch.fft.rfftn(change, dim=dims) * by_axes
        low = torch.fft.irfftn(spectrum, s=grid, dim=dims)
        return (close.float() + low.flatten(1, 3)).type_as(close)

    heads = zip(overall.unbind(1), near.unbind(1), strict=True)
    return torch.stack([of_head(far, close) for far, close in heads], 1)


@dataclass(frozen=True)
class SpectralPlan:
    """Both passes on one grid, and the filter between them.

    Attributes:
        overall: The global pass.
        near: The local pass, with tokens in the same order.
        gains: Of the filter, on the device of the tokens.
    """

    overall: AttentionPlan
    near: AttentionPlan
    gains: Tensor

    @property
    def grid(self) -> Grid:
        """(T, H, W) in tokens."""
        return self.near.grid

    @property
    def order(self) -> Order:
        """How q, k and v come."""
        return self.near.order

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
        """Attend twice and blend: q, k, v [B, heads, L, D]; returns the shape of q."""
        overall, near = (plan(q, k, v, scale) for plan in (self.overall, self.near))
        return spectral_blend(overall, near, self.gains, self.grid, self.order)


def frame_runs(frames: int, half: int) -> list[tuple[slice, slice]]:
    """Query frames that see the same frames, and those: 2 half + 1 around each, pushed inward at both ends."""
    size = min(2 * half + 1, frames)
    firsts = [min(max(frame - half, 0), frames - size) for frame in range(frames)]
    found, start = [], 0
    for first, run in groupby(firsts):
        stop = start + len(list(run))
        found.append((slice(start, stop), slice(first, first + size)))
        start = stop
    return found


def plan_frames(grid: Grid, half: int, order: Order) -> FunctionPlan:
    """Every query sees whole frames around its own: one SDPA call without a mask for each run of frames."""
    return FunctionPlan(grid, partial(_attend_frames, grid, half, order), order)


def _attend_frames(grid: Grid, half: int, order: Order, q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
    frames, places = grid[0], grid[1] * grid[2]
    dim, shape = (2, (frames, places)) if order == "thw" else (3, (places, frames))
    q, k, v = (x.unflatten(2, shape) for x in one_dtype(q, k, v))

    def part(x: Tensor, run: slice) -> Tensor:
        return x.narrow(dim, run.start, run.stop - run.start).flatten(2, 3)

    found = []
    for queries, keys in frame_runs(frames, half):
        out = scaled_dot_product_attention(part(q, queries), part(k, keys), part(v, keys), scale=scale)
        found.append(out.unflatten(2, (-1, places) if order == "thw" else (places, -1)))
    return torch.cat(found, dim).flatten(2, 3)
