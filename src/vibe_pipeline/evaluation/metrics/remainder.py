"""What a frame loses when it is shrunk by 8, 16 and 32 and enlarged again: what HD-MSE and HD-LPIPS are taken of.

UltraGen (arXiv 2510.18775, appendix D) states the factors, not the filter; bilinear without a low-pass is that of the
only public code (VisionForge-arch/PixelWizard, compute_metrics/quality_metric.py). So a shrunk pixel is the mean of
the four in the middle of its block.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from vibe_pipeline.evaluation.metrics.pixels import strips

FACTORS = (8, 16, 32)
"""2 to the power of 3, 4 and 5."""

Picture = NDArray[np.uint8] | NDArray[np.floating]


def stretched(values: Picture, size: int, axis: int) -> NDArray[np.float32]:
    """An axis brought to another length by linear interpolation, as torch does it with align_corners=False."""
    low, high, weight = _neighbours(values.shape[axis], size)
    weight = weight.reshape([-1 if i == axis else 1 for i in range(values.ndim)])
    near = np.take(values, low, axis).astype(np.float32)
    return near + (np.take(values, high, axis).astype(np.float32) - near) * weight


def shrunk(picture: Picture, factor: int) -> NDArray[np.float32]:
    """[H, W, 3] -> [H // factor, W // factor, 3], at least one pixel each way."""
    height, width = (max(1, side // factor) for side in picture.shape[:2])
    return stretched(stretched(picture, height, 0), width, 1)


def enlarged_strips(small: NDArray[np.float32], height: int, width: int) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """A shrunk picture at its old size, a few rows at a time."""
    wide = stretched(small, width, 1)
    low, high, weight = _neighbours(len(small), height)
    for rows in strips(height):
        near = wide[low[rows]]
        yield rows, near + (wide[high[rows]] - near) * weight[rows, None, None]


def _neighbours(length: int, size: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """For each of `size` places the two samples of `length` beside it, and how far it lies from the first."""
    place = np.maximum((np.arange(size) + 0.5) * length / size - 0.5, 0)
    low = np.minimum(place.astype(np.intp), length - 1)
    return low, np.minimum(low + 1, length - 1), (place - low).astype(np.float32)
