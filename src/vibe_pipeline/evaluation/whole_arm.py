"""Figures that an arm has as a whole, and the interval of a difference of two of them.

A Fréchet distance is one figure of all clips: no prompt has a share of it that could be paired. But each arm keeps what
its figure becomes when its prompts are drawn again, and the draws depend on nothing but the seed and the prompts. So
the i-th resamples of two arms with the same prompts are of the same draw, and their differences are a resampling of
both arms at once: what makes a prompt hard for both falls out.

Such a figure is too high by an amount that falls with the number of clips, and resamples, which hold fewer different
ones, by about as much more (see :mod:`.metrics.frechet`). In a difference this falls out as far as both arms' clips
scatter alike. What is left is estimated by the same resamples and said in words, and the interval covers the difference
as it is seen and with that taken off.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vibe_pipeline.evaluation.bootstrap import Bootstrap, Matrix
from vibe_pipeline.io.keys import content_key
from vibe_pipeline.io.score_table import WHOLE_ARM

_SINGLE = ""


@dataclass(frozen=True)
class Figures:
    """One metric of one arm, a column a training seed.

    Attributes:
        seeds: Training seeds, sorted.
        values: The figures [S].
        resamples: What they become when prompts are drawn again, [B, S].
        prompts: How many prompts.
        key: Of which prompts, and how drawn.
    """

    seeds: tuple[str, ...]
    values: NDArray[np.float64]
    resamples: Matrix
    prompts: int
    key: str


def resamples_as_text(prompts: Sequence[int], seed: int, resamples: Sequence[float]) -> str:
    """What a row of the score table keeps of resamples; '' of none.

    Args:
        prompts: The different ones, sorted, that were drawn from.
        seed: Of the draws.
        resamples: The figure of each.
    """
    if not len(resamples):
        return ""
    key = content_key(list(map(int, prompts)), int(seed), len(resamples))
    return json.dumps({"prompts": len(prompts), "of": key, "values": [float(f"{v:.8g}") for v in resamples]})


@dataclass(frozen=True)
class Joint:
    """A difference of two arms' figures, resampled over the prompts of both at once.

    Attributes:
        mean: Over training seeds.
        low: Of its interval.
        high: Upper end of the interval.
        prompts: Of how many prompts.
        spread: Standard deviation over prompts that the resamples amount to.
        of_seeds: Variance of `mean` that training seeds add.
        seeds: How many training seeds differ; the fewer of two sides that are not paired.
        note: What few clips do to it.
    """

    mean: float
    low: float
    high: float
    prompts: int
    spread: float
    of_seeds: float
    seeds: int
    note: str


def figures_of(rows: pd.DataFrame, training: str) -> Figures | None:
    """The resampled figures in an arm's usable rows of one metric; None where a row is of a clip or keeps none.

    Args:
        rows: Scored rows of one arm and metric.
        training: The column of training seeds, if there is one.
    """
    if rows.empty or "resamples" not in rows or (rows["prompt_index"] != WHOLE_ARM).any():
        return None
    texts = rows["resamples"]
    if not texts.map(lambda text: isinstance(text, str) and bool(text)).all():
        return None
    seeds = rows[training].astype(str) if training in rows else pd.Series(_SINGLE, rows.index)
    order = np.argsort(seeds.to_numpy(), kind="stable")
    kept: list[dict[str, Any]] = [json.loads(texts.iloc[i]) for i in order]
    if len({(one["of"], one["prompts"]) for one in kept}) != 1:
        return None
    return Figures(
        seeds=tuple(seeds.iloc[i] for i in order),
        values=rows["value"].to_numpy(np.float64)[order],
        resamples=np.array([one["values"] for one in kept], np.float64).T,
        prompts=kept[0]["prompts"],
        key=kept[0]["of"],
    )


def own_interval(figures: Figures, bootstrap: Bootstrap) -> tuple[float, float]:
    """The interval of an arm's mean figure over its training seeds, about that figure."""
    drawn = bootstrap.over_seeds_of_each(figures.resamples, 1)
    low, high = _ends(drawn, bootstrap)
    mean = float(figures.values.mean())
    return mean + low, mean + high


def joint_difference(mine: Figures | None, theirs: Figures | None, bootstrap: Bootstrap) -> Joint | None:
    """The difference mine − theirs, both resampled at once; None where they have not the same prompts.

    Training seeds count as in :func:`~vibe_pipeline.evaluation.differences.paired_difference`.
    """
    if mine is None or theirs is None or mine.key != theirs.key:
        return None
    if mine.seeds == theirs.seeds or 1 in (len(mine.seeds), len(theirs.seeds)):
        sides = [(mine.values - theirs.values, mine.resamples - theirs.resamples, 1.0)]
    else:
        sides = [(mine.values, mine.resamples, 1.0), (theirs.values, theirs.resamples, -1.0)]
    mean = sum(sign * float(values.mean()) for values, _, sign in sides)
    plain = sum(sign * resamples.mean(axis=1) for _, resamples, sign in sides)
    parts = [sign * bootstrap.over_seeds_of_each(part, i) for i, (_, part, sign) in enumerate(sides, 1)]
    drawn = np.sum(parts, axis=0)
    seeds = [values for values, _, _ in sides if len(values) > 1]
    bias, (low, high) = float(plain.mean()) - mean, _ends(drawn, bootstrap)
    return Joint(
        mean=mean,
        low=mean + low - max(bias, 0.0),
        high=mean + high - min(bias, 0.0),
        prompts=mine.prompts,
        spread=float(plain.std(ddof=1)) * math.sqrt(mine.prompts),
        of_seeds=sum(float(values.var(ddof=1)) / len(values) for values in seeds),
        seeds=min(map(len, seeds), default=1),
        note=_note(mine.prompts, bias),
    )


def _ends(drawn: NDArray[np.float64], bootstrap: Bootstrap) -> tuple[float, float]:
    """The middle of resamples about their own mean, which lies off by the bias."""
    tail = (1 - bootstrap.confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail]) - drawn.mean()
    return float(low), float(high)


def _note(prompts: int, bias: float) -> str:
    return (
        f"both arms resampled at once over their {prompts} prompts; each figure is too high for so few clips, which "
        f"makes about {bias:+.3g} of this difference, and the interval reaches over it"
    )
