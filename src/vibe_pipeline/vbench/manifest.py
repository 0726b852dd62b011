"""What is stated beside VBench scores."""

import hashlib
import importlib.metadata
import json
from collections.abc import Sequence
from typing import Any

import pandas as pd

from vibe_pipeline.io.score_table import check_clip_table
from vibe_pipeline.vbench.dimensions import FLOW_DIMENSIONS, dimension_of
from vibe_pipeline.vbench.needs import seen_size
from vibe_pipeline.vbench.prompts import FLICKER, STATIC_FILTER

LONG_SECONDS = 5.0  # from here on VBench's authors ask for VBench-Long


def vbench_manifest(
    clips: pd.DataFrame,
    dimensions: Sequence[str],
    protocol: str = "custom",
    rewriting: str = "none",
    flow_side: int | None = None,
) -> dict[str, Any]:
    """What must be stated beside VBench scores for them to be reproducible.

    Args:
        clips: As for `score_vbench`.
        dimensions: Names out of VBench's 16.
        protocol: `vbench_standard`, `vbench_subset`, `vbench_custom`, `4k_vbench`, or `custom` for other prompts.
        rewriting: What rewrote the prompts before generation.
        flow_side: Longest side in pixels that RAFT and AMT see; None: the clip's own.

    Returns:
        JSON-ready: protocol, VBench's version, per dimension what it sees, per size and dimension the height and
        width its model is given, the number and hash of the prompts (in order, as generated from), seeds, arms, every
        fps, frame count and size that occurs, the longest duration in seconds, and `vbench_long`: whether a clip
        lasts 5.0 s or more, where VBench-Long is the proper protocol.

    Raises:
        ValueError: The clip table or a dimension's name is wrong.
    """
    check_clip_table(clips)
    names = [dimension_of(name).name for name in dimensions]
    prompts = clips[["prompt_index", "prompt"]].drop_duplicates().sort_values(["prompt_index", "prompt"])
    listed = [[int(index), str(prompt)] for index, prompt in prompts.itertuples(index=False)]
    return {
        "protocol": protocol,
        "vbench_version": version(),
        "dimensions": {name: _sees(name, flow_side) for name in names},
        "prompt_count": len(listed),
        "prompts_sha256": hashlib.sha256(json.dumps(listed, ensure_ascii=False).encode()).hexdigest(),
        "prompt_rewriting": rewriting,
        "seeds": sorted(int(seed) for seed in clips["seed"].unique()),
        "arms": sorted(str(arm) for arm in clips["arm"].unique()),
        "flow_side": flow_side,
        "notes": [STATIC_FILTER] if FLICKER in names and protocol == "vbench_standard" else [],
    } | _scale(clips, names, flow_side)


def _scale(clips: pd.DataFrame, names: Sequence[str], flow_side: int | None) -> dict[str, Any]:
    """Rates, lengths and sizes of the clips, and what becomes of the sizes."""
    seconds = clips["frames"] / clips["fps"]
    table = clips[["height", "width"]].drop_duplicates().sort_values(["height", "width"])
    sizes = [(int(height), int(width)) for height, width in table.itertuples(index=False)]
    return {
        "fps": sorted(float(fps) for fps in clips["fps"].unique()),
        "frames": sorted(int(frames) for frames in clips["frames"].unique()),
        "sizes": [list(size) for size in sizes],
        "seen_sizes": {f"{h}x{w}": {n: list(seen_size(n, h, w, flow_side)) for n in names} for h, w in sizes},
        "longest_seconds": float(seconds.max()),
        "vbench_long": bool((seconds >= LONG_SECONDS).any()),
        "vbench_long_arms": sorted(str(arm) for arm in clips.loc[seconds >= LONG_SECONDS, "arm"].unique()),
    }


def _sees(name: str, flow_side: int | None) -> str:
    if name in FLOW_DIMENSIONS and flow_side is not None:
        return dimension_of(name).sees.replace("at full size", f"with a long side of at most {flow_side} pixels")
    return dimension_of(name).sees


def version() -> str | None:
    """The installed VBench's, or None."""
    try:
        return importlib.metadata.version("vbench")
    except importlib.metadata.PackageNotFoundError:
        return None
