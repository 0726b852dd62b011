"""What of a clip a dimension's model sees, and the memory that takes: known before anything is decoded.

RAFT and AMT correlate every eighth pixel with every other, so their memory grows with the fourth power of the
side: 17 and 34 GB at 1408x2560, 91 and 181 GB at 2176x3840.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pandas as pd

from vibe_pipeline.io.score_table import too_few
from vibe_pipeline.vbench.dimensions import FLOW_DIMENSIONS, dimension_of
from vibe_pipeline.vbench.sizes import shrunk_size

# Correlation volumes a model holds at once: AMT keeps both directions.
VOLUMES: Mapping[str, int] = MappingProxyType({"dynamic_degree": 1, "motion_smoothness": 2})
PYRAMID = 1 + 1 / 4 + 1 / 16 + 1 / 64  # a volume, and its three halvings
FLOAT = 4  # bytes
SUGGESTED_SIDE = 512
_SQUARE_224 = frozenset(
    {"background_consistency", "aesthetic_quality", "human_action", "appearance_style", "temporal_style"}
    | {"overall_consistency"}
)
_DETECTED = frozenset({"object_class", "multiple_objects", "color", "spatial_relationship"})


def too_short(dimension: str, frames: int) -> str:
    """Why a clip of so many frames has no score on a dimension, or an empty string."""
    return too_few(dimension_of(dimension).frames, frames)


def seen_size(dimension: str, height: int, width: int, flow_side: int | None) -> tuple[int, int]:
    """Height and width in pixels that the dimension's model is given of a frame; as in vbench 0.1.5."""
    if dimension in FLOW_DIMENSIONS:
        return shrunk_size(height, width, flow_side)
    if dimension in _SQUARE_224:
        return 224, 224
    if dimension == "scene":
        return 384, 384
    short, long = min(height, width), max(height, width)
    if dimension == "subject_consistency":
        return int(224 * height / short), int(224 * width / short)
    if dimension == "imaging_quality" and long > 512:
        return int(512 / long * height), int(512 / long * width)
    if dimension in _DETECTED and short > 768:
        return int(720 / short * height), int(720 / short * width)
    return height, width


def flow_memory(dimension: str, frames: int, height: int, width: int, flow_side: int | None) -> int:
    """Bytes on the device that RAFT (dynamic_degree) or AMT (motion_smoothness) needs at the least.

    All-pairs correlations at an eighth of the side, and the clip's frames as 32-bit floats, which VBench puts on
    the device all at once.

    Args:
        dimension: One of the two.
        frames: Of the clip.
        height: Of the clip, pixels.
        width: Of the clip, pixels.
        flow_side: Longest side the model sees; None: the clip's own.
    """
    rows, columns = seen_size(dimension, height, width, flow_side)
    cells = math.ceil(rows / 8) * math.ceil(columns / 8)
    return round(VOLUMES[dimension] * PYRAMID * cells**2 * FLOAT) + frames * rows * columns * 3 * FLOAT


def decoded_memory(clips: pd.DataFrame) -> int:
    """Bytes of the largest clip's frames, as both of VBench's readers hold them."""
    return int(2 * 3 * (clips["frames"] * clips["height"] * clips["width"]).max())


def free_memory(device: str) -> int | None:
    """Bytes free on a device, or None if that cannot be told."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    lines = Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").is_file() else []
    free = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return free[0] if free else None


def too_large(
    dimension: str, clips: pd.DataFrame, flow_side: int | None, device: str, at_once: int, free: int | None
) -> str:
    """Why a dimension would not fit the device's memory, and what to change; empty if it does.

    Args:
        dimension: Any; only RAFT's and AMT's are ever refused.
        clips: Columns frames, height, width.
        flow_side: As for :func:`flow_memory`.
        device: What torch calls it.
        at_once: Clips scored at the same time on the device.
        free: Bytes free on it, None if unknown.
    """
    if dimension not in FLOW_DIMENSIONS or free is None:
        return ""
    sizes = clips[["frames", "height", "width"]].drop_duplicates().itertuples(index=False)
    needed, largest = max(
        (flow_memory(dimension, frames, height, width, flow_side), (frames, height, width))
        for frames, height, width in sizes
    )
    if at_once * needed <= free:
        return ""
    frames, height, width = largest
    small = flow_memory(dimension, frames, height, width, SUGGESTED_SIDE)
    seen = "x".join(map(str, seen_size(dimension, height, width, flow_side)))
    return (
        f"skipped, because it correlates all pairs of pixels and needs at least {needed / 1e9:.1f} GB a clip of "
        f"{frames} frames at {seen}, {at_once} at once, and {free / 1e9:.1f} GB are free on {device}; set "
        f"evaluation.flow_side, the same for every arm ({SUGGESTED_SIDE} needs {small / 1e9:.1f} GB)"
    )
