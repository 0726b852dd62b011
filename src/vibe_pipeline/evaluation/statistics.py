"""Means, paired differences and their bootstrap intervals, out of a long table of scores.

The prompt is the unit that is resampled: clips of one prompt share its difficulty, so its seeds are averaged
first (Efron and Tibshirani, An Introduction to the Bootstrap, chapters 8 and 13). Every interval over the same
number of prompts uses the same resamples, so arms are compared on the same draws and the order of rows, arms
or metrics changes nothing.

Where an arm was trained with several seeds, these are a level of their own: see :mod:`.bootstrap`.
"""

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from vibe_pipeline.evaluation.bootstrap import Bootstrap
from vibe_pipeline.evaluation.differences import (
    CLIP,
    TRAINING,
    Difference,
    clip_count,
    clip_values,
    difference_of,
    difference_of_wholes,
    is_usable,
    prompt_matrix,
    whole_figures,
)
from vibe_pipeline.evaluation.estimates import prompt_means
from vibe_pipeline.evaluation.whole_arm import Figures, own_interval
from vibe_pipeline.io.errors import one_line
from vibe_pipeline.io.score_table import WHOLE_ARM

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
    "training_seeds",
    "effect_size",
    "diff_seeds_low",
    "diff_seeds_high",
    "diff_crossed_low",
    "diff_crossed_high",
)
NEEDED = ("arm", "prompt_index", "seed", "metric", "value", "direction", "family", "status", "reason")
_REASONS_KEPT = 3
_USABLE = "usable"
LEFT_OUT = "left out"
"""In the reason of a row that is scored: some of its clips have no score. Any other reason there is a note."""


def summarise(
    scores: pd.DataFrame,
    reference_arm: str | Mapping[str, str],
    confidence: float = 0.95,
    samples: int = 2000,
    seed: int = 0,
    declared: Collection[str] = (),
) -> pd.DataFrame:
    """One row per arm and metric: mean, interval, and the paired difference to the reference arm.

    Args:
        scores: Columns :data:`NEEDED`; any families. A column `training_seed` tells replicates of an arm apart.
        reference_arm: The arm that differences are taken to; or each arm's own.
        confidence: Of the percentile intervals, between 0 and 1.
        samples: How many bootstrap resamples the intervals rest on.
        seed: Of the resamples.
        declared: Arms that the table has whether they were scored or not, the reference among them.

    Returns:
        Columns :data:`SUMMARY_COLUMNS`, every metric for every arm, in order of appearance. `mean` is over prompts of
        the mean over seeds; `n` counts clips with a score; `diff` is arm minus reference over the `n_pairs`
        (prompt_index, seed) that both have; both are 0 of a score that an arm has as a whole. Without any score the
        mean is NaN, the status is that of the rows ("missing" if there are none) and the reason says why; a partly
        scored row keeps status "scored", and its reason says what is left out. Intervals are NaN with fewer than two
        prompts. `training_seeds` counts replicates; `effect_size` is that of :class:`Difference`. Beside the
        bootstrap's interval of the difference stand t-intervals: `diff_seeds` over training seeds alone, NaN with one,
        and `diff_crossed` over prompts and training seeds as random effects.

    Raises:
        ValueError: A column is absent, the reference arm is unknown, a clip is scored twice on a metric, a metric has
            two directions or families, or the bootstrap's settings are out of range.
    """
    arms = list(dict.fromkeys([*scores.get("arm", ()), *declared]))
    references = {arm: reference_arm if isinstance(reference_arm, str) else reference_arm.get(arm) for arm in arms}
    _check(scores, references, confidence, samples)
    named = {arm: reference for arm, reference in references.items() if reference is not None}  # all, by the check
    rows = _summary_rows(scores, named, Bootstrap(samples, confidence, seed))
    table = pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))
    table["arm"] = pd.Categorical(table["arm"], arms)
    table = table.sort_values("arm", kind="stable", ignore_index=True)
    counts = dict.fromkeys(("n", "n_pairs", "training_seeds"), "int64")
    return table.astype({"arm": scores["arm"].dtype} | counts)


def _summary_rows(
    scores: pd.DataFrame, references: Mapping[str, str], bootstrap: Bootstrap
) -> Iterator[dict[str, Any]]:
    """Every metric, and in it every arm of `references` against its own."""
    # Once for the whole table: a table of many arms has thousands of groups.
    by_row = ["arm", "metric"]
    groups = dict(list(scores.assign(**{_USABLE: is_usable(scores)}).groupby(by_row, sort=False)))
    usable = scores[is_usable(scores)]
    all_values, places = clip_values(usable), usable.groupby(by_row, sort=False).indices
    none, nowhere = scores.head(0).assign(**{_USABLE: False}), np.empty(0, int)
    for metric, of_metric in scores.groupby("metric", sort=False):
        described = {"direction": of_metric["direction"].iloc[0], "family": of_metric["family"].iloc[0]}
        of_arm = {arm: groups.get((arm, metric), none) for arm in references}
        values = {arm: all_values.iloc[places.get((arm, metric), nowhere)] for arm in references}
        whole = {arm: whole_figures(group) for arm, group in of_arm.items()}
        for arm, reference in references.items():
            level = _level(of_arm[arm], values[arm], whole[arm], bootstrap)
            row = {"arm": arm, "metric": metric} | described | level
            found = difference_of_wholes(whole[arm], whole[reference], bootstrap)
            found = found or difference_of(values[arm], values[reference], bootstrap)
            row |= {"diff": found.mean, "diff_low": found.low, "diff_high": found.high, "n_pairs": found.clips}
            row |= {"effect_size": found.effect_size} | _beside(found, bootstrap.confidence)
            said = f"no clip in common with {reference!r}" if len(values[arm]) and not found.prompts else found.note
            if arm != reference and said:
                row["reason"] = "; ".join(filter(None, [row["reason"], said]))
            yield row


def _beside(found: Difference, confidence: float) -> dict[str, float]:
    """The t-intervals of a difference; NaN where there is none."""
    ends: dict[str, float] = {}
    for name, estimate in (("seeds", found.seeds), ("crossed", found.crossed)):
        low, high = (math.nan, math.nan) if estimate is None else estimate.interval(confidence)
        ends |= {f"diff_{name}_low": low, f"diff_{name}_high": high}
    return ends


def _check(scores: pd.DataFrame, references: Mapping[str, str | None], confidence: float, samples: int) -> None:
    absent = [name for name in NEEDED if name not in scores.columns]
    if absent:
        have = one_line(", ".join(map(str, scores.columns)))
        raise ValueError(f"the score table lacks the columns {', '.join(absent)}; it has {have}")
    for reference in references.values():
        if reference not in references:
            known = ", ".join(map(repr, references))
            raise ValueError(f"reference arm {reference!r} has no scores; the arms are: {known}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence = {confidence}: it lies between 0 and 1, 0.95 for example")
    if samples < 1:
        raise ValueError(f"samples = {samples}: at least 1 resample is needed")
    twice = scores[scores.duplicated(["arm", "metric", *[name for name in CLIP if name in scores]])]
    if len(twice):
        row = twice.iloc[0]
        where = f"arm {row['arm']!r}, prompt {row['prompt_index']}, seed {row['seed']}"
        raise ValueError(f"two values of {row['metric']!r} for {where}: which one counts?")
    for name in ("direction", "family"):
        kinds = scores.groupby("metric")[name].nunique()
        if (kinds > 1).any():
            raise ValueError(f"metric {kinds[kinds > 1].index[0]!r} has more than one {name}")


def _level(group: pd.DataFrame, values: pd.Series, whole: Figures | None, bootstrap: Bootstrap) -> dict[str, object]:
    """Mean, interval, count, status and reason of one arm on one metric."""
    left_out = group[~group[_USABLE].to_numpy(bool)]
    if group.empty:
        status, reason = "missing", "no row for this arm and metric"
    elif values.empty:
        status, reason = _missing_status(left_out), _reasons(left_out)
    else:
        status = "scored"
        said = [f"{len(left_out)} of {len(group)} {LEFT_OUT}: {_reasons(left_out)}"] if len(left_out) else []
        reason = "; ".join(said + _notes(group))
    matrix = prompt_matrix(values)
    low, high = bootstrap.interval(matrix) if len(matrix) != 1 else _own_interval(group, whole, bootstrap)
    mean = float(prompt_means(matrix).mean()) if len(matrix) else math.nan
    seeds = group[TRAINING].nunique() if TRAINING in group and len(group) else 1
    found = {"mean": mean, "ci_low": low, "ci_high": high, "n": clip_count(values), "training_seeds": seeds}
    return found | {"status": status, "reason": reason}


def _own_interval(group: pd.DataFrame, whole: Figures | None, bootstrap: Bootstrap) -> tuple[float, float]:
    """What a measure of the whole arm says of itself; without such a measure, NaN."""
    if whole is not None and len(whole.seeds) > 1:
        return own_interval(whole, bootstrap)
    own = group[group[_USABLE].to_numpy(bool) & (group["prompt_index"] == WHOLE_ARM)]
    if len(own) != 1 or "low" not in own:
        return math.nan, math.nan
    return float(own["low"].iloc[0]), float(own["high"].iloc[0])


def _missing_status(left_out: pd.DataFrame) -> str:
    """The rows' own status; a row that says "scored" without a number has in fact failed."""
    return str(left_out["status"].replace("scored", "failed").iloc[0])


def _notes(group: pd.DataFrame) -> list[str]:
    """What is to be said beside scores that are there."""
    return [str(text) for text in dict.fromkeys(group.loc[group[_USABLE], "reason"]) if pd.notna(text) and text]


def _reasons(left_out: pd.DataFrame) -> str:
    """The first different reasons, in one line."""
    stated = [
        str(row.reason) if pd.notna(row.reason) and row.reason else f"{row.status} with the value {row.value}"
        for row in left_out.itertuples(index=False)
    ]
    different = list(dict.fromkeys(stated))
    more = [f"and {len(different) - _REASONS_KEPT} more reasons"] if len(different) > _REASONS_KEPT else []
    return "; ".join(different[:_REASONS_KEPT] + more)
