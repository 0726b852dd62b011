"""How often two grey levels lie side by side: co-occurrence matrices (GLCM) of a frame's tiles, and their entropy.

As in the code of Diffusion-4K (Zhang et al., CVPR 2025; zhang0jhon/diffusion-4k, eval.py): 64 grey levels, tiles of 64
pixels without overlap, what is left over at the right and below is dropped; neighbours at distances 1 to 4 and angles
of 0, 45, 90 and 135 degrees, rounded to pixels as scikit-image's graycomatrix does; one direction, not both.
"""

import math
from collections import Counter
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

TILE = 64
LEVELS = 64
CELLS = LEVELS**2

Offset = tuple[int, int]


def _offsets() -> Mapping[Offset, int]:
    angles = (0.0, math.pi / 4, math.pi / 2, 3 * math.pi / 4)
    pairs = ((distance, angle) for distance in (1, 2, 3, 4) for angle in angles)
    return MappingProxyType(Counter((round(math.sin(a) * d), round(math.cos(a) * d)) for d, a in pairs))


OFFSETS = _offsets()
"""Rows and columns to the neighbour, with how many of the 16 pairs of distance and angle each stands for."""
MATRICES = sum(OFFSETS.values())


def grey_levels(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Levels 0 to 63 [H, W] of an RGB picture [H, W, 3]: Rec. 601 in OpenCV's fixed-point numbers, over 4."""
    grey = picture[..., 0].astype(np.int32) * 9798
    grey += picture[..., 1].astype(np.int32) * 19235
    grey += picture[..., 2].astype(np.int32) * 3735
    return ((grey + 16384) >> 17).astype(np.uint8)


def tile_entropies(levels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Of each tile: the mean entropy of its matrices, and the entropy of the values in them; both in bits.

    Args:
        levels: [H, W] below 64, H and W at least 64.

    Returns:
        [tiles, 2]. First the mean over the 16 matrices of -sum p log2 p, 0 to 12: the paper's definition. Second
        scikit-image's `shannon_entropy` of all 16 normalised matrices as one array, which counts how often each VALUE
        occurs among their 65,536 numbers: what the paper's code prints.
    """
    across = levels.shape[1] // TILE
    rows = [
        levels[top : top + TILE, : across * TILE].reshape(TILE, across, TILE).swapaxes(0, 1)
        for top in range(0, levels.shape[0] // TILE * TILE, TILE)
    ]
    return np.concatenate([_row_entropies(np.ascontiguousarray(row)) for row in rows])


def _row_entropies(tiles: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Tiles [N, 64, 64] -> [N, 2]."""
    number = len(tiles)
    names, zero = _value_names()
    entropy, filled = np.zeros(number), np.zeros(number)
    values, times_seen = [], []
    for offset, times in OFFSETS.items():
        counts, pairs = _pair_counts(tiles, offset)
        cells = np.flatnonzero(counts)
        found, tile = counts[cells], cells // CELLS
        entropy += times * (math.log2(pairs) - np.bincount(tile, found * np.log2(found), number) / pairs)
        filled += times * np.bincount(tile, minlength=number)
        values.append(tile * (zero + 1) + names[pairs][found])
        times_seen.append(np.full(len(found), times, np.float64))
    seen = np.bincount(np.concatenate(values), np.concatenate(times_seen), number * (zero + 1))
    seen = seen.reshape(number, zero + 1)
    seen[:, zero] = MATRICES * CELLS - filled
    share = seen / (MATRICES * CELLS)
    of_values = -np.sum(share * np.log2(share, out=np.zeros_like(share), where=share > 0), axis=1)
    return np.stack([entropy / MATRICES, of_values], axis=1)


def _pair_counts(tiles: NDArray[np.uint8], offset: Offset) -> tuple[NDArray[np.intp], int]:
    """Counts, flat [N * 64 * 64], of (level, neighbour's level), and how many pairs a tile has."""
    down, right = offset
    first = tiles[:, : TILE - down, max(0, -right) : TILE - max(0, right)]
    second = tiles[:, down:, max(0, right) : TILE + min(0, right)]
    cells = first.astype(np.intp) * LEVELS
    cells += second
    cells += np.arange(len(tiles))[:, None, None] * CELLS
    return np.bincount(cells.ravel(), minlength=len(tiles) * CELLS), first[0].size


@cache
def _value_names() -> tuple[Mapping[int, NDArray[np.intp]], int]:
    """By how many pairs a tile has, a number for each count's share of them, equal for equal shares; how many."""
    sizes = sorted({(TILE - down) * (TILE - abs(right)) for down, right in OFFSETS})
    shares = np.concatenate([np.arange(size + 1) / size for size in sizes])
    different, names = np.unique(shares, return_inverse=True)
    split = np.split(names, np.cumsum([size + 1 for size in sizes])[:-1])
    return dict(zip(sizes, split, strict=True)), len(different)
