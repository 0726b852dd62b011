"""The table of clips that is scored, and the score table that comes out."""

import logging
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

logger = logging.getLogger(__name__)

CLIP_COLUMNS = ("arm", "prompt_index", "prompt", "seed", "path", "fps", "frames", "height", "width")
CLIP_KEY = ["arm", "prompt_index", "seed"]
SCORE_COLUMNS = ("arm", "prompt_index", "seed", "metric", "value", "direction", "family", "status", "reason")
WHOLE_ARM = -1  # prompt_index and seed of a row that speaks for an arm rather than a clip


def check_clip_table(clips: pd.DataFrame) -> None:
    """Refuse a table that cannot be scored unambiguously.

    Args:
        clips: Columns `arm, prompt_index, prompt, seed, path, fps, frames, height, width`, one row a clip.

    Raises:
        ValueError: It is empty, lacks a column, or has two rows for one (arm, prompt_index, seed).
    """
    absent = [name for name in CLIP_COLUMNS if name not in clips.columns]
    if absent:
        raise ValueError(f"the clip table lacks the columns {', '.join(absent)}; it has {', '.join(map(str, clips))}")
    if clips.empty:
        raise ValueError("the clip table is empty: there is nothing to score")
    twice = clips[clips.duplicated(CLIP_KEY)]
    if len(twice):
        first = twice.iloc[0]
        raise ValueError(
            f"two clips for arm {first.arm!r}, prompt {first.prompt_index}, seed {first.seed}: {first.path}"
        )


def unreadable(clips: pd.DataFrame) -> dict[int, str]:
    """Which clips VBench's readers could not take whole, by position in the table, each with its reason.

    VBench drops a clip that it cannot open, and scores a truncated one on the frames it finds; so every clip
    is decoded once beforehand and held against its row.
    """
    reasons = ((position, _reason(row)) for position, row in enumerate(clips.itertuples(index=False)))
    return {position: reason for position, reason in reasons if reason}


def _reason(row: tuple) -> str:
    """Why this clip cannot be scored, or an empty string."""
    path = Path(row.path)
    if path.suffix.lower() != ".mp4":
        return f"{path} is not an mp4, the only kind of video that every VBench dimension reads"
    if not path.is_file():
        return f"{path} does not exist"
    frames, height, width = _decoded(path)
    if frames == 0:
        return f"{path} cannot be read as a video"
    if (frames, height, width) != (row.frames, row.height, row.width):
        stated = f"{row.frames} frames of {row.height}x{row.width}"
        return f"{path} holds {frames} frames of {height}x{width}, and its row says {stated}"
    return ""


def _decoded(path: Path) -> tuple[int, int, int]:
    """Frames that decode, height and width in pixels; zeros if the file is not a video."""
    import cv2

    video = cv2.VideoCapture(str(path))
    try:
        frames = 0
        while video.isOpened() and video.grab():
            frames += 1
        return frames, int(video.get(cv2.CAP_PROP_FRAME_HEIGHT)), int(video.get(cv2.CAP_PROP_FRAME_WIDTH))
    finally:
        video.release()


def score_table(rows: Iterable[dict[str, object]]) -> pd.DataFrame:
    """Rows to a score table with :data:`SCORE_COLUMNS` in order and stable types."""
    table = pd.DataFrame(list(rows), columns=list(SCORE_COLUMNS))
    return table.astype({"prompt_index": "int64", "seed": "int64", "value": "float64"})
