"""Pictures of arms in MLflow: under names that every arm shares, and in pages that set arms side by side."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.reporting.media import some_frames
from vibe_pipeline.reporting.tables import arm_order, bound_of
from vibe_pipeline.tracking import Tracked, picture_key

PICTURE = 1920
"""Longest side of a picture in MLflow, in pixels: a larger frame is shrunk."""

SHARES = (0.0, 0.5, 1.0)
"""Where in a clip its pictures are taken, as shares of its length."""

SIDE_BY_SIDE = 10
"""Runs that MLflow's grid shows pictures of; it leaves out the others without a word."""


def keep_clip(run: Tracked, clip: Any) -> None:
    """A clip to play, and pictures of it for the image grid, under names that every arm shares."""
    run.artifact(Path(clip.preview_path), "clips", f"{_name(clip)}.mp4")
    if run.client is None:
        return
    chosen: list[int] = []

    def choose(count: int) -> list[int]:
        chosen[:] = _steps(count)
        return chosen

    frames = some_frames(Path(clip.path), choose)
    for step, frame in zip(chosen, frames, strict=True):
        picture = Image.fromarray(frame)
        picture.thumbnail((PICTURE, PICTURE))
        run.picture(key_of(clip), picture, step)


def key_of(clip: Any) -> str:
    """What a clip's pictures are called."""
    return picture_key(f"clips/{_name(clip)} {clip.prompt}")


def _name(clip: Any) -> str:
    return f"{clip.prompt_index:04d}-{clip.seed}"


def _steps(count: int) -> list[int]:
    return sorted({round(share * (count - 1)) for share in SHARES})


def common_step(clips: Iterable[pd.DataFrame]) -> int:
    """The middle frame, if all clips are of one length, else the first, which all have."""
    lengths = {int(count) for found in clips for count in found["frames"]}
    steps = _steps(lengths.pop()) if len(lengths) == 1 else [0]
    return steps[len(steps) // 2]


def pages(arms: Mapping[str, ArmParams]) -> list[list[str]]:
    """Names of arms in groups that MLflow's grid can show; plain upsampling and the truth are in each of them."""
    places = places_of(arms)
    ordered = sorted(arms, key=places.__getitem__)
    anchors = [next((a for a in ordered if bound_of(a, arms) == bound), "") for bound in ("floor", "ceiling")]
    if len(ordered) <= SIDE_BY_SIDE:
        return [ordered]
    others = [arm for arm in ordered if arm not in anchors]
    size = SIDE_BY_SIDE - sum(map(bool, anchors))
    groups = [others[start : start + size] for start in range(0, len(others), size)]
    return [sorted([*filter(None, anchors), *group], key=places.__getitem__) for group in groups]


def places_of(arms: Mapping[str, ArmParams]) -> dict[str, int]:
    """Where each arm stands: plain upsampling first, then as declared, the truth last."""
    return {arm: place for place, arm in enumerate(arm_order(list(arms), arms))}
