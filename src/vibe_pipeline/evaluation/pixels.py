"""Clips as arrays, float RGB [T, H, W, 3] in [0, 1]: looked at before they are measured."""

import numpy as np
from numpy.typing import NDArray

Clip = NDArray[np.floating]

LUMA = (0.2126, 0.7152, 0.0722)


def checked(clip: Clip) -> Clip:
    """The clip, after a look at its shape, type and range.

    Raises:
        ValueError: It is not [T, H, W, 3] of floats in [0, 1]; names what was found.
    """
    array = np.asarray(clip)
    if array.ndim != 4 or array.shape[-1] != 3 or 0 in array.shape:
        raise ValueError(f"a clip is [frames, height, width, 3]; this one is {list(array.shape)}")
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"a clip holds floats in [0, 1]; this one holds {array.dtype}: divide bytes by 255")
    low, high = float(array.min()), float(array.max())
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # NaN fails too
        raise ValueError(f"a clip lies in [0, 1]; this one goes from {low:.4g} to {high:.4g}")
    return array


def require_same_shape(a: Clip, b: Clip) -> None:
    """Raises ValueError naming both shapes if they differ."""
    if np.shape(a) != np.shape(b):
        raise ValueError(f"the clips differ in shape: {list(np.shape(a))} and {list(np.shape(b))}")


def luminance(clip: Clip) -> NDArray[np.floating]:
    """Rec. 709 luminance, [T, H, W], in the clip's precision; frame by frame, as 4K clips are large."""
    array = checked(clip)
    return np.stack([frame @ np.asarray(LUMA, array.dtype) for frame in array])
