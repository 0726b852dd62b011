"""Keeping account of the images: what becomes of every one that was found, and how many are held out."""

import logging

import numpy as np
import pandas as pd

from vibe_pipeline.experiment.data import DataParams
from vibe_pipeline.io.errors import one_line

log = logging.getLogger(__name__)


def require_usable(usable: pd.DataFrame, quarantine: pd.DataFrame, min_share: float) -> None:
    """Stop where too few images are usable.

    Args:
        usable, quarantine: From `check_images`.
        min_share: Least usable share of all images, 0 to 1. No usable image at all is always an error.

    Raises:
        ValueError: Too few; the message counts the reasons, each with an example.
    """
    total = len(usable) + len(quarantine)
    if len(usable) and len(usable) >= min_share * total:
        return
    asked = f"data.min_usable_share asks for {min_share:.0%}"
    raise ValueError(f"{len(usable)} of {total} images are usable; {asked}{reasons(quarantine)}")


def held_out_count(images: int, data: DataParams) -> int:
    """How many of the images are kept from training: what is asked for, within its share, and at least one.

    Raises:
        ValueError: None would be left to train on.
    """
    if images < 2:
        raise ValueError(
            f"{images} usable image(s): at least 2 are needed, one to train on and one held out of training (data.path "
            f"is {one_line(data.path)}, data.count {data.count})"
        )
    return max(1, min(data.held_out, int(data.held_out_share * images)))


def held_out_rows(images: int, data: DataParams) -> set[int]:
    """Which of the images, by their place, are kept from training.

    Raises:
        ValueError: None would be left to train on.
    """
    count = held_out_count(images, data)
    return set(np.random.default_rng(data.seed).permutation(images)[:count].tolist())


def take(usable: pd.DataFrame, quarantine: pd.DataFrame, data: DataParams) -> pd.DataFrame:
    """The usable images that the run uses, with a line in the log of what becomes of all that were found.

    Args:
        usable, quarantine: From `check_images`.
        data: `count`, `held_out`, `held_out_share`.

    Raises:
        ValueError: Too few to hold one out and train on another.
    """
    used = usable.head(data.count) if data.count else usable
    held_out = held_out_count(len(used), data)
    log.info(
        "found %d = %d to train on + %d held out + %d in quarantine%s%s",
        len(usable) + len(quarantine),
        len(used) - held_out,
        held_out,
        len(quarantine),
        f" + {len(usable) - len(used)} beyond data.count" if len(used) < len(usable) else "",
        reasons(quarantine),
    )
    if held_out < data.held_out:
        log.warning(
            "data.held_out asks for %d images; %d of %d images are held out, as data.held_out_share allows %.0f %%",
            *(data.held_out, held_out, len(used), 100 * data.held_out_share),
        )
    if data.count and len(usable) < data.count:
        log.warning("data.count asks for %d images; only %d are usable", data.count, len(usable))
    return used


def reasons(quarantine: pd.DataFrame) -> str:
    """`: 3 too_small (a.png: 8x8 …), 1 duplicate (…)`, most frequent first; empty if there are none."""
    seen: dict[str, list[str]] = {}
    for name, reason, value in quarantine.itertuples(index=False):
        seen.setdefault(reason, []).append(f"{name}: {value}")
    ranked = sorted(seen.items(), key=lambda item: (-len(item[1]), item[0]))
    return f": {', '.join(f'{len(r)} {reason} ({one_line(r[0])})' for reason, r in ranked)}" if ranked else ""
