"""Scales of self-attention that are known by name; to add one, write its function and list it in `SCALES`."""

import math
from collections.abc import Callable
from types import MappingProxyType

from vibe_pipeline.diffusion.attention.geometry import Grid, NativeGrid

Scale = float | str | None
"""A number, a name in `SCALES`, or None: 1 / sqrt(head dim)."""


def freeswim_scale(native_tokens: int, head_dim: int) -> float:
    """FreeSwim's attention scale sqrt(log_N(2 N) / d); arXiv 2511.14712.

    Args:
        native_tokens: N, tokens per frame at native size (30 x 52 = 1560 for Wan2.1 at 480p).
        head_dim: d, channels of one head.

    Raises:
        ValueError: if native_tokens is below 2 (the logarithm's base) or head_dim below 1.
    """
    if native_tokens < 2 or head_dim < 1:
        raise ValueError(f"need native_tokens >= 2 and head_dim >= 1, not {native_tokens} and {head_dim}")
    return math.sqrt(math.log(2 * native_tokens, native_tokens) / head_dim)


def _freeswim(grid: Grid, native: NativeGrid | None, head_dim: int) -> float:
    if native is None:
        raise ValueError("scale 'freeswim' follows from the native token grid: give native_grid (H, W) in tokens")
    return freeswim_scale(math.prod(native), head_dim)


def cinescale_scale(tokens_per_frame: int, head_dim: int, reference: int = 3600) -> float:
    """CineScale's attention temperature log_r(c r) / sqrt(d): c grows with the frame, from 1 over 1.5 to 2.

    Published for r = 3600, the tokens of a 720p frame on Wan2.1: c = 1.5 above 10,000 tokens a frame, 2 above 20,000.
    With another reference the thresholds move in proportion, which is ours.

    Args:
        tokens_per_frame: H W of the token grid at work.
        head_dim: d, channels of one head.
        reference: r, tokens of a frame at which the temperature is that of plain attention, 1 / sqrt(d).

    Raises:
        ValueError: A count below 1, or a reference below 2 (the logarithm's base).

    Source: Eyeline-Labs/CineScale, `diffsynth/models/wan_video_dit.py` (arXiv 2508.15774), without FreeSwim's root.
    """
    if tokens_per_frame < 1 or head_dim < 1 or reference < 2:
        raise ValueError(
            f"need counts of 1 or more and a reference of 2 or more, not {tokens_per_frame}, {head_dim}, {reference}"
        )
    times = tokens_per_frame * 3600 / reference
    grown = 2.0 if times > 20_000 else 1.5 if times > 10_000 else 1.0
    return math.log(grown * reference, reference) / math.sqrt(head_dim)


def _cinescale(grid: Grid, native: NativeGrid | None, head_dim: int) -> float:
    return cinescale_scale(grid[1] * grid[2], head_dim)


def _cinescale_native(grid: Grid, native: NativeGrid | None, head_dim: int) -> float:
    if native is None:
        raise ValueError(
            "scale 'cinescale_native' follows from the native token grid: give native_grid (H, W) in tokens"
        )
    return cinescale_scale(grid[1] * grid[2], head_dim, native[0] * native[1])


def proportional_scale(tokens: int, native_tokens: int, head_dim: int) -> float:
    """Proportional attention sqrt(log_L0(L) / d): scores grow with the tokens that compete.

    Args:
        tokens: L, of the token grid at work, all frames.
        native_tokens: L0, of the native one with as many frames.
        head_dim: d, channels of one head.

    Raises:
        ValueError: A count below 2, or of channels below 1.

    Source: Lumina-Next, arXiv 2406.18583 (`lumina_next_t2i`, proportional_attn); after arXiv 2306.08645.
    """
    if min(tokens, native_tokens) < 2 or head_dim < 1:
        raise ValueError(f"need 2 tokens or more and head_dim >= 1, not {tokens}, {native_tokens}, {head_dim}")
    return math.sqrt(math.log(tokens, native_tokens) / head_dim)


def _proportional(grid: Grid, native: NativeGrid | None, head_dim: int) -> float:
    if native is None:
        raise ValueError("scale 'proportional' follows from the native token grid: give native_grid (H, W) in tokens")
    return proportional_scale(max(2, math.prod(grid)), grid[0] * math.prod(native), head_dim)


SCALES: MappingProxyType[str, Callable[[Grid, NativeGrid | None, int], float]] = MappingProxyType(
    {
        "freeswim": _freeswim,
        "cinescale": _cinescale,
        "cinescale_native": _cinescale_native,
        "proportional": _proportional,
    }
)
"""By name, from the token grid (T, H, W) at work, the native one (H, W) and the head's channels."""


def known_scale(name: str) -> str:
    """The name of a scale, as it is.

    Raises:
        ValueError: There is none of that name; lists those there are.
    """
    if name not in SCALES:
        raise ValueError(f"unknown attention scale {name!r}: give a number or one of {', '.join(SCALES)}")
    return name


def scale_of(scale: Scale, grid: Grid, native: NativeGrid | None, head_dim: int) -> float | None:
    """The number that a row's scale stands for on a token grid; None stays None, 1 / sqrt(head dim).

    Raises:
        ValueError: An unknown name, or the native grid is needed and not known.
    """
    return SCALES[known_scale(scale)](grid, native, head_dim) if isinstance(scale, str) else scale
