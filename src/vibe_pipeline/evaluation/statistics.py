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
from numpy.typing import NDArray

from vibe_pipeline.evaluation.bootstrap import DEFAULT_BOOTSTRAP, Bootstrap, Matrix
from vibe_pipeline.evaluation.difference import Difference
from vibe_pipeline.evaluation.whole_arm import Figures, difference_of_figures, figures_of, own_interval
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
)
NEEDED = ("arm", "prompt_index", "seed", "metric", "value", "direction", "family", "status", "reason")
TRAINING = "training_seed"
_PAIR = ["prompt_index", "seed"]
_CLIP = [*_PAIR, TRAINING]
_REASONS_KEPT = 3
LEFT_OUT = "left out"
"""In the reason of a row that is scored: some of its clips have no score. Any other reason there is a note."""


def paired_difference(
    scores: pd.DataFrame, arm: str, other: str, metric: str, bootstrap: Bootstrap = DEFAULT_BOOTSTRAP
) -> Difference:
    """The difference arm − other on one metric, over the clips of the same prompt and seed that both have.

    `scores` is as for :func:`summarise`. Training seeds are paired where both arms have the same ones; where one arm
    has a single one, it stands against each of the other's; else they are drawn independently. Figures of whole arms
    are resampled over the prompts of both at once, where they keep their resamples (see :mod:`.whole_arm`).
    """
    rows = scores[scores["metric"] == metric]
    mine, theirs = (rows[rows["arm"] == name] for name in (arm, other))
    whole = difference_of_figures(_figures(mine), _figures(theirs), bootstrap)
    return whole or _difference(_values(mine), _values(theirs), bootstrap)


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
        prompts. `training_seeds` counts replicates; `effect_size` is that of :class:`Difference`.

    Raises:
        ValueError: A column is absent, the reference arm is unknown, a clip is scored twice on a metric, a metric has
            two directions or families, or the bootstrap's settings are out of range.
    """
    arms = list(dict.fromkeys([*scores.get("arm", ()), *declared]))
    references = {arm: reference_arm if isinstance(reference_arm, str) else reference_arm.get(arm) for arm in arms}
    _check(scores, references, confidence, samples)
    rows = _summary_rows(scores, references, Bootstrap(samples, confidence, seed))
    table = pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))
    table["arm"] = pd.Categorical(table["arm"], arms)
    table = table.sort_values("arm", kind="stable", ignore_index=True)
    counts = dict.fromkeys(("n", "n_pairs", "training_seeds"), "int64")
    return table.astype({"arm": scores["arm"].dtype} | counts)


def _summary_rows(
    scores: pd.DataFrame, references: Mapping[str, str], bootstrap: Bootstrap
) -> Iterator[dict[str, Any]]:
    """Every metric, and in it every arm of `references` against its own."""
    groups = dict(list(scores.groupby(["arm", "metric"], sort=False)))
    for metric, of_metric in scores.groupby("metric", sort=False):
        described = {"direction": of_metric["direction"].iloc[0], "family": of_metric["family"].iloc[0]}
        of_arm = {arm: groups.get((arm, metric), scores.head(0)) for arm in references}
        values, whole = ({arm: of(group) for arm, group in of_arm.items()} for of in (_values, _figures))
        for arm, reference in references.items():
            level = _level(of_arm[arm], values[arm], whole[arm], bootstrap)
            row = {"arm": arm, "metric": metric} | described | level
            found = difference_of_figures(whole[arm], whole[reference], bootstrap)
            found = found or _difference(values[arm], values[reference], bootstrap)
            row |= {"diff": found.mean, "diff_low": found.low, "diff_high": found.high, "n_pairs": found.clips}
            row["effect_size"] = found.effect_size
            said = f"no clip in common with {reference!r}" if len(values[arm]) and not found.prompts else found.note
            if arm != reference and said:
                row["reason"] = "; ".join(filter(None, [row["reason"], said]))
            yield row


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
    twice = scores[scores.duplicated(["arm", "metric", *[name for name in _CLIP if name in scores]])]
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
    """The usable scores, by (prompt_index, seed, training_seed)."""
    usable = group[_scored(group)]
    if TRAINING not in usable:
        usable = usable.assign(**{TRAINING: ""})
    return usable.set_index(_CLIP)["value"].astype(float)


def _figures(group: pd.DataFrame) -> Figures | None:
    """The usable figures of a whole arm, with their resamples."""
    return figures_of(group[_scored(group)], TRAINING)


def _matrix(values: pd.Series) -> Matrix:
    """Means over seeds, in order of prompt and training seed, so that the order of rows does not matter."""
    if values.empty:
        return np.empty((0, 1))
    means = values.groupby(level=["prompt_index", TRAINING], sort=True).mean()
    return means.unstack(TRAINING).to_numpy()


def _prompt_means(matrix: Matrix) -> NDArray[np.float64]:
    return matrix[:, 0] if matrix.shape[1] == 1 else np.nanmean(matrix, axis=1)


def _level(group: pd.DataFrame, values: pd.Series, whole: Figures | None, bootstrap: Bootstrap) -> dict[str, object]:
    """Mean, interval, count, status and reason of one arm on one metric."""
    left_out = group[~_scored(group)]
    if group.empty:
        status, reason = "missing", "no row for this arm and metric"
    elif values.empty:
        status, reason = _missing_status(left_out), _reasons(left_out)
    else:
        status = "scored"
        said = [f"{len(left_out)} of {len(group)} {LEFT_OUT}: {_reasons(left_out)}"] if len(left_out) else []
        reason = "; ".join(said + _notes(group))
    matrix = _matrix(values)
    low, high = bootstrap.interval(matrix) if len(matrix) != 1 else _own_interval(group, whole, bootstrap)
    mean = float(_prompt_means(matrix).mean()) if len(matrix) else math.nan
    seeds = group[TRAINING].nunique() if TRAINING in group and len(group) else 1
    found = {"mean": mean, "ci_low": low, "ci_high": high, "n": _clips(values), "training_seeds": seeds}
    return found | {"status": status, "reason": reason}


def _own_interval(group: pd.DataFrame, whole: Figures | None, bootstrap: Bootstrap) -> tuple[float, float]:
    """What a measure of the whole arm says of itself; without such a measure, NaN."""
    own = group[_scored(group) & (group["prompt_index"] == WHOLE_ARM)]
    if whole is not None and len(whole.seeds) > 1:
        return own_interval(whole, bootstrap)
    if len(own) != 1 or "low" not in own:
        return math.nan, math.nan
    return float(own["low"].iloc[0]), float(own["high"].iloc[0])


def _clips(values: pd.Series) -> int:
    """How many of the values are of clips, and not of an arm as a whole."""
    return int((values.index.get_level_values("prompt_index") != WHOLE_ARM).sum())


def _missing_status(left_out: pd.DataFrame) -> str:
    """The rows' own status; a row that says "scored" without a number has in fact failed."""
    return str(left_out["status"].replace("scored", "failed").iloc[0])


def _notes(group: pd.DataFrame) -> list[str]:
    """What is to be said beside scores that are there."""
    return [str(text) for text in dict.fromkeys(group.loc[_scored(group), "reason"]) if pd.notna(text) and text]


def _reasons(left_out: pd.DataFrame) -> str:
    """The first different reasons, in one line."""
    stated = [
        str(row.reason) if pd.notna(row.reason) and row.reason else f"{row.status} with the value {row.value}"
        for row in left_out.itertuples(index=False)
    ]
    different = list(dict.fromkeys(stated))
    more = [f"and {len(different) - _REASONS_KEPT} more reasons"] if len(different) > _REASONS_KEPT else []
    return "; ".join(different[:_REASONS_KEPT] + more)


def _difference(values: pd.Series, reference: pd.Series, bootstrap: Bootstrap) -> Difference:
    """Mean paired difference and its interval, over the clips that both have."""
    mine, theirs = (set(v.index.get_level_values(TRAINING)) for v in (values, reference))
    less: Matrix | None = None
    if len(mine) > 1 and len(theirs) > 1 and mine != theirs:
        common = values.index.droplevel(TRAINING).intersection(reference.index.droplevel(TRAINING)).unique()
        pairs = values[values.index.droplevel(TRAINING).isin(common)]
        matrix, less = _matrix(pairs), _matrix(reference[reference.index.droplevel(TRAINING).isin(common)])
        by_prompt = _prompt_means(matrix) - _prompt_means(less)
    else:
        pairs = _paired(values, reference, same=mine == theirs)
        matrix = _matrix(pairs)
        by_prompt = _prompt_means(matrix)
    low, high = bootstrap.interval(matrix, less)
    mean = float(by_prompt.mean()) if len(by_prompt) else math.nan
    spread = float(by_prompt.std(ddof=1)) if len(by_prompt) > 1 else 0.0
    # Differences that are all alike spread by rounding alone.
    effect = mean / spread if spread > 1e-12 * float(np.abs(by_prompt).max(initial=0)) else math.nan
    return Difference(
        mean=mean,
        low=low,
        high=high,
        clips=_clips(pairs),
        prompts=len(by_prompt),
        effect_size=effect,
        training_seeds=max(len(mine), len(theirs), 1),
        spread=spread if len(by_prompt) > 1 else math.nan,
        of_seeds=_of_seeds(matrix) + (0.0 if less is None else _of_seeds(less)),
    )


def _of_seeds(matrix: Matrix) -> float:
    """Variance of the grand mean that columns add: what their means differ by, less what their residuals explain."""
    prompts, seeds = matrix.shape
    if seeds < 2 or prompts < 2:
        return 0.0
    columns, rows = np.nanmean(matrix, axis=0), np.nanmean(matrix, axis=1)
    residual = matrix - columns - rows[:, None] + columns.mean()
    noise = float(np.nansum(residual**2)) / ((prompts - 1) * (seeds - 1))
    return max(0.0, float(columns.var(ddof=1)) - noise / prompts) / seeds


def _paired(values: pd.Series, reference: pd.Series, same: bool) -> pd.Series:
    """Differences of clips, by (prompt_index, seed, training_seed); a lone training seed meets each of the other's."""
    if values.empty or reference.empty:
        return values.head(0)
    on = _CLIP if same else _PAIR
    left, right = (v.rename(name).reset_index() for v, name in ((values, "a"), (reference, "b")))
    if not same and right[TRAINING].nunique() > 1:
        left = left.drop(columns=TRAINING)
    elif not same:
        right = right.drop(columns=TRAINING)
    both = left.merge(right, on=on)
    return (both["a"] - both["b"]).set_axis(pd.MultiIndex.from_frame(both[_CLIP]))
