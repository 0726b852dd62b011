"""Means, paired differences and their bootstrap intervals, out of a long table of scores.

The prompt is the unit that is resampled: clips of one prompt share its difficulty, so its seeds are averaged
first (Efron and Tibshirani, An Introduction to the Bootstrap, chapters 8 and 13). Every interval over the same
number of prompts uses the same resamples, so arms are compared on the same draws and the order of rows, arms
or metrics changes nothing.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vibe_pipeline.evaluation.clips import SCORE_COLUMNS

SUMMARY_COLUMNS = (
    "arm",
    "metric",
    "mean",
    "ci_low",
    "ci_high",
    "n",
    "direction",
    "family",
    "diff",
    "diff_low",
    "diff_high",
    "n_pairs",
    "status",
    "reason",
)
_PAIR = ["prompt_index", "seed"]
_REASONS_KEPT = 3


@dataclass(frozen=True)
class _Bootstrap:
    """How intervals are drawn."""

    confidence: float
    samples: int
    seed: int

    def interval(self, prompt_means: NDArray[np.float64]) -> tuple[float, float]:
        """Percentile interval of the mean over prompts; NaN for fewer than two, where nothing can be resampled."""
        prompts = len(prompt_means)
        if prompts < 2:
            return math.nan, math.nan
        drawn = np.random.default_rng(self.seed).integers(0, prompts, (self.samples, prompts))
        tail = (1 - self.confidence) / 2
        low, high = np.quantile(prompt_means[drawn].mean(axis=1), [tail, 1 - tail])
        return float(low), float(high)


def summarise(
    scores: pd.DataFrame, reference_arm: str, confidence: float = 0.95, samples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """One row per arm and metric: mean, interval, and the paired difference to the reference arm.

    Args:
        scores: Columns arm, prompt_index, seed, metric, value, direction, family, status, reason; any families.
        reference_arm: The arm that differences are taken to.
        confidence: Of the percentile intervals, between 0 and 1.
        samples: Bootstrap resamples.
        seed: Of the resamples.

    Returns:
        Columns :data:`SUMMARY_COLUMNS`, every metric for every arm, in order of appearance. `mean` is over prompts of
        the mean over seeds; `n` counts clips with a score; `diff` is arm minus reference over the `n_pairs`
        (prompt_index, seed) that both have. Without any score the mean is NaN, the status is that of the rows
        ("missing" if there are none) and the reason says why; a partly scored row keeps status "scored", and its
        reason says what is left out. Intervals are NaN with fewer than two prompts.

    Raises:
        ValueError: A column is absent, the reference arm is unknown, a clip is scored twice on a metric, a metric has
            two directions or families, or the bootstrap's settings are out of range.
    """
    _check(scores, reference_arm, confidence, samples)
    bootstrap = _Bootstrap(confidence, samples, seed)
    groups = dict(list(scores.groupby(["arm", "metric"], sort=False)))
    arms = list(dict.fromkeys(scores["arm"]))
    rows = []
    for metric, of_metric in scores.groupby("metric", sort=False):
        described = {"direction": of_metric["direction"].iloc[0], "family": of_metric["family"].iloc[0]}
        reference = _values(groups.get((reference_arm, metric), scores.head(0)))
        for arm in arms:
            group = groups.get((arm, metric), scores.head(0))
            row = {"arm": arm, "metric": metric} | described | _level(group, bootstrap)
            row |= _difference(_values(group), reference, bootstrap)
            if row["n"] and not row["n_pairs"]:
                row["reason"] = "; ".join(filter(None, [row["reason"], f"no clip in common with {reference_arm!r}"]))
            rows.append(row)
    table = pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))
    table["arm"] = pd.Categorical(table["arm"], arms)
    table = table.sort_values("arm", kind="stable", ignore_index=True)
    return table.astype({"arm": scores["arm"].dtype, "n": "int64", "n_pairs": "int64"})


def _check(scores: pd.DataFrame, reference_arm: str, confidence: float, samples: int) -> None:
    absent = [name for name in SCORE_COLUMNS if name not in scores.columns]
    if absent:
        raise ValueError(f"the score table lacks the columns {', '.join(absent)}")
    arms = list(dict.fromkeys(scores["arm"]))
    if reference_arm not in arms:
        raise ValueError(f"reference arm {reference_arm!r} has no scores; the arms are: {', '.join(map(repr, arms))}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence = {confidence}: it lies between 0 and 1, 0.95 for example")
    if samples < 1:
        raise ValueError(f"samples = {samples}: at least 1 resample is needed")
    twice = scores[scores.duplicated(["arm", "metric", *_PAIR])]
    if len(twice):
        row = twice.iloc[0]
        where = f"arm {row['arm']!r}, prompt {row['prompt_index']}, seed {row['seed']}"
        raise ValueError(f"two values of {row['metric']!r} for {where}: which one counts?")
    for name in ("direction", "family"):
        kinds = scores.groupby("metric")[name].nunique()
        if (kinds > 1).any():
            raise ValueError(f"metric {kinds[kinds > 1].index[0]!r} has more than one {name}")


def _scored(group: pd.DataFrame) -> pd.Series:
    """Which rows hold a usable score."""
    return (group["status"] == "scored") & np.isfinite(group["value"].astype(float))


def _values(group: pd.DataFrame) -> pd.Series:
    """The usable scores, by (prompt_index, seed)."""
    return group[_scored(group)].set_index(_PAIR)["value"].astype(float)


def _prompt_means(values: pd.Series) -> NDArray[np.float64]:
    """Mean over seeds per prompt, in order of prompt, so that the order of rows does not matter."""
    return values.groupby(level="prompt_index", sort=True).mean().to_numpy()


def _level(group: pd.DataFrame, bootstrap: _Bootstrap) -> dict[str, object]:
    """Mean, interval, count, status and reason of one arm on one metric."""
    values, left_out = _values(group), group[~_scored(group)]
    if group.empty:
        status, reason = "missing", "no row for this arm and metric"
    elif values.empty:
        status, reason = _missing_status(left_out), _reasons(left_out)
    else:
        status = "scored"
        reason = f"{len(left_out)} of {len(group)} left out: {_reasons(left_out)}" if len(left_out) else ""
    means = _prompt_means(values)
    low, high = bootstrap.interval(means)
    mean = float(means.mean()) if len(means) else math.nan
    return {"mean": mean, "ci_low": low, "ci_high": high, "n": len(values), "status": status, "reason": reason}


def _missing_status(left_out: pd.DataFrame) -> str:
    """The rows' own status; a row that says "scored" without a number has in fact failed."""
    return str(left_out["status"].replace("scored", "failed").iloc[0])


def _reasons(left_out: pd.DataFrame) -> str:
    """The first different reasons, in one line."""
    stated = [
        str(row.reason) if pd.notna(row.reason) and row.reason else f"{row.status} with the value {row.value}"
        for row in left_out.itertuples(index=False)
    ]
    different = list(dict.fromkeys(stated))
    more = [f"and {len(different) - _REASONS_KEPT} more reasons"] if len(different) > _REASONS_KEPT else []
    return "; ".join(different[:_REASONS_KEPT] + more)


def _difference(values: pd.Series, reference: pd.Series, bootstrap: _Bootstrap) -> dict[str, object]:
    """Mean paired difference and its interval, over the clips that both have."""
    pairs = pd.concat([values, reference], axis=1, join="inner")
    differences = (pairs.iloc[:, 0] - pairs.iloc[:, 1]) if len(pairs) else values.head(0)
    means = _prompt_means(differences)
    low, high = bootstrap.interval(means)
    diff = float(means.mean()) if len(means) else math.nan
    return {"diff": diff, "diff_low": low, "diff_high": high, "n_pairs": len(pairs)}
