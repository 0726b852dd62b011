"""The table of clips that is scored, and the score table that comes out."""

import logging
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from vibe_pipeline.io.metric import Metric

logger = logging.getLogger(__name__)

CLIP_COLUMNS = ("arm", "prompt_index", "prompt", "seed", "path", "fps", "frames", "height", "width")
CLIP_KEY = ["arm", "prompt_index", "seed"]
SCORE_COLUMNS = (
    "arm",
    "prompt_index",
    "seed",
    "metric",
    "value",
    "direction",
    "family",
    "status",
    "reason",
    "seen",
    "low",
    "high",
    "resamples",
)
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


def difference_of(clip: Any) -> str:
    """How a clip (a row of the table) differs in size, length or rate from the others; empty where it does not."""
    said = getattr(clip, "differs", "")
    return said if isinstance(said, str) else ""  # an empty cell of a file comes back as NaN


def unusable(path: Path) -> str:
    """Why VBench's readers would refuse a file, told without opening it; or an empty string."""
    if path.suffix.lower() != ".mp4":
        return f"{path} is not an mp4, the only kind of video that every VBench dimension reads"
    return "" if path.is_file() else f"{path} does not exist"


def too_few(needed: int, frames: int) -> str:
    """The reason of a missing score where a clip is too short; empty if it is not."""
    return f"at least {needed} frames are needed; the clip has {frames}" if frames < needed else ""


class Place(NamedTuple):
    """Whose score a row is: a clip's, or with :data:`WHOLE_ARM` twice an arm's."""

    arm: str
    prompt_index: int = WHOLE_ARM
    seed: int = WHOLE_ARM


def score_row(
    place: Place, metric: Metric, value: float = math.nan, status: str = "scored", reason: str = "", seen: str = ""
) -> dict[str, object]:
    """A row of the score table; a score that is not finite counts as failed.

    Args:
        place: Whose it is.
        metric: The entry, which says direction and family.
        value: On the metric's own scale; NaN where there is none.
        status: scored, skipped or failed.
        reason: Why there is no score.
        seen: Height x width that a model was given.
    """
    if status == "scored" and not math.isfinite(value):
        status, reason, value = "failed", f"the measure gave {value}", math.nan
    described = {"metric": metric.name, "value": value, "direction": metric.direction, "family": metric.family}
    return place._asdict() | described | {"status": status, "reason": reason, "seen": seen}


def score_table(rows: Iterable[dict[str, object]]) -> pd.DataFrame:
    """Rows to a score table with :data:`SCORE_COLUMNS` in order and stable types.

    A row of a whole arm may bring its own interval, `low` to `high`, which its value alone cannot give, and as text
    its `resamples`: what the value becomes when prompts are drawn again, from which a difference gets its interval.
    """
    table = pd.DataFrame(list(rows), columns=list(SCORE_COLUMNS))
    return table.astype(
        {"prompt_index": "int64", "seed": "int64", "value": "float64", "low": "float64", "high": "float64"}
    )
