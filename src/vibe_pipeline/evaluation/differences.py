"""Paired differences of two arms, out of a long table of scores: the mean, its intervals and its tests."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from vibe_pipeline.evaluation.bootstrap import DEFAULT_BOOTSTRAP, Bootstrap, Matrix
from vibe_pipeline.evaluation.estimates import (
    Estimate,
    Test,
    Vector,
    YesNo,
    crossed,
    of_seeds,
    over_training_seeds,
    prompt_means,
    yes_no,
)
from vibe_pipeline.evaluation.whole_arm import Figures, figures_of, joint_difference
from vibe_pipeline.io.score_table import WHOLE_ARM

TRAINING = "training_seed"
PAIR = ["prompt_index", "seed"]
CLIP = [*PAIR, TRAINING]
UNKNOWN = Estimate(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Difference:
    """The mean paired difference of two arms on one metric.

    Attributes:
        mean: Over prompts; NaN without a common clip.
        low: Of its interval; NaN with fewer than two prompts.
        high: Upper end of the interval.
        clips: How many differences of clips went in; 0 where the figures are of whole arms.
        prompts: Of how many prompts.
        spread: Standard deviation of the difference over prompts; NaN with fewer than two.
        of_seeds: Variance of `mean` that training seeds add, however many prompts there are; 0 with one seed.
        effect_size: Mean over the standard deviation over prompts (Cohen's d_z); NaN where that is 0 or not defined.
        training_seeds: The most that either arm was trained with.
        crossed: The same mean with prompts and training seeds as random effects; with one training seed the paired t.
        seeds: The same mean over training seeds alone; None with one.
        exact: Of a measure that is 0 or 1 on every clip; None of others.
        note: What is to be said beside it; '' where there is nothing.
    """

    mean: float
    low: float
    high: float
    clips: int
    prompts: int
    effect_size: float
    training_seeds: int
    spread: float = math.nan
    of_seeds: float = 0.0
    crossed: Estimate = UNKNOWN
    seeds: Estimate | None = None
    exact: YesNo | None = None
    note: str = ""

    @property
    def has_interval(self) -> bool:
        """Whether it can be told from 0: it is of clips, or of figures that were resampled."""
        return bool(self.clips) or not math.isnan(self.low)

    @property
    def tests(self) -> dict[str, Test]:
        """What stands beside the bootstrap, by what each is over."""
        over = "prompts" if self.training_seeds < 2 else "prompts and training seeds"
        named = {over: self.crossed, "training seeds": self.seeds, "prompts that differ": self.exact}
        return {name: test for name, test in named.items() if test is not None}


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
    whole = difference_of_wholes(whole_figures(mine), whole_figures(theirs), bootstrap)
    return whole or difference_of(clip_values(mine), clip_values(theirs), bootstrap)


def whole_figures(group: pd.DataFrame) -> Figures | None:
    """The usable figures of a whole arm, with their resamples; None where it keeps none."""
    if "resamples" not in group:
        return None
    return figures_of(group[is_usable(group)], TRAINING)


def difference_of_wholes(mine: Figures | None, theirs: Figures | None, bootstrap: Bootstrap) -> Difference | None:
    """The difference of two arms' figures; None where they cannot be resampled at once."""
    found = joint_difference(mine, theirs, bootstrap)
    if found is None or mine is None or theirs is None:
        return None
    error = math.sqrt(found.spread**2 / found.prompts + found.of_seeds)
    alone = Estimate(found.mean, math.sqrt(found.of_seeds), found.seeds - 1) if found.seeds > 1 else None
    return Difference(
        mean=found.mean,
        low=found.low,
        high=found.high,
        clips=0,
        prompts=found.prompts,
        effect_size=found.mean / found.spread if found.spread else math.nan,
        training_seeds=max(len(mine.seeds), len(theirs.seeds)),
        spread=found.spread,
        of_seeds=found.of_seeds,
        crossed=Estimate(found.mean, error, found.prompts - 1),
        seeds=alone,
        note=found.note,
    )


def is_usable(group: pd.DataFrame) -> pd.Series:
    """Which rows hold a usable score."""
    return (group["status"] == "scored") & np.isfinite(group["value"].astype(float))


def clip_values(group: pd.DataFrame) -> pd.Series:
    """The usable scores, by (prompt_index, seed, training_seed)."""
    usable = group[is_usable(group)]
    if TRAINING not in usable:
        usable = usable.assign(**{TRAINING: ""})
    return usable.set_index(CLIP)["value"].astype(float)


def prompt_matrix(values: pd.Series) -> Matrix:
    """Means over seeds, in order of prompt and training seed, so that the order of rows does not matter."""
    if values.empty:
        return np.empty((0, 1))
    (rows, prompts), (columns, trainings) = (
        pd.factorize(values.index.get_level_values(name), sort=True) for name in ("prompt_index", TRAINING)
    )
    cells, shape = rows * len(trainings) + columns, (len(prompts), len(trainings))
    total, count = (
        np.bincount(cells, values.to_numpy(), shape[0] * shape[1]),
        np.bincount(cells, minlength=shape[0] * shape[1]),
    )
    return np.divide(total, count, out=np.full(len(total), math.nan), where=count > 0).reshape(shape)


def clip_count(values: pd.Series) -> int:
    """How many of the values are of clips, and not of an arm as a whole."""
    return int((values.index.get_level_values("prompt_index") != WHOLE_ARM).sum())


def difference_of(values: pd.Series, reference: pd.Series, bootstrap: Bootstrap) -> Difference:
    """Mean paired difference, its intervals and tests, over the clips that both have."""
    mine, theirs = (set(v.index.get_level_values(TRAINING)) for v in (values, reference))
    less: Matrix | None = None
    if len(mine) > 1 and len(theirs) > 1 and mine != theirs:
        common = values.index.droplevel(TRAINING).intersection(reference.index.droplevel(TRAINING)).unique()
        pairs = values[values.index.droplevel(TRAINING).isin(common)]
        less = prompt_matrix(reference[reference.index.droplevel(TRAINING).isin(common)])
    else:
        pairs = _paired(values, reference, same=mine == theirs)
    clips, seeds = clip_count(pairs), max(len(mine), len(theirs), 1)
    either_or = bool(clips) and _is_yes_no(values) and _is_yes_no(reference)
    found = difference_between(prompt_matrix(pairs), less, bootstrap, either_or)
    return replace(found, clips=clips, training_seeds=seeds)


def difference_between(
    matrix: Matrix, less: Matrix | None = None, bootstrap: Bootstrap = DEFAULT_BOOTSTRAP, either_or: bool = False
) -> Difference:
    """The mean of paired differences, with its intervals and tests.

    Args:
        matrix: Of one difference a prompt and training seed, NaN where there is none.
        less: To subtract, of training seeds of its own; `matrix` then holds scores.
        bootstrap: How its interval is drawn.
        either_or: Whether every clip is either right or wrong, 1 or 0.
    """
    by_prompt = prompt_means(matrix) - (0.0 if less is None else prompt_means(less))
    low, high = bootstrap.interval(matrix, less)
    return Difference(
        mean=float(by_prompt.mean()) if len(by_prompt) else math.nan,
        low=low,
        high=high,
        clips=int(np.isfinite(matrix).sum()),
        prompts=len(by_prompt),
        effect_size=_effect_size(by_prompt),
        training_seeds=max(side.shape[1] for side in (matrix, less) if side is not None),
        spread=float(by_prompt.std(ddof=1)) if len(by_prompt) > 1 else math.nan,
        of_seeds=of_seeds(matrix) + (0.0 if less is None else of_seeds(less)),
        crossed=crossed(matrix, less),
        seeds=over_training_seeds(matrix, less),
        exact=yes_no(by_prompt) if either_or else None,
    )


def _effect_size(by_prompt: Vector) -> float:
    """Mean over standard deviation."""
    spread = float(by_prompt.std(ddof=1)) if len(by_prompt) > 1 else 0.0
    # Differences that are all alike spread by rounding alone.
    told = spread > 1e-12 * float(np.abs(by_prompt).max(initial=0))
    return float(by_prompt.mean()) / spread if told else math.nan


def _is_yes_no(values: pd.Series) -> bool:
    """Whether every clip is either right or wrong."""
    return bool(values.isin((0.0, 1.0)).all())


def _paired(values: pd.Series, reference: pd.Series, same: bool) -> pd.Series:
    """Differences of clips, by (prompt_index, seed, training_seed); a lone training seed meets each of the other's."""
    if values.empty or reference.empty:
        return values.head(0)
    if same and values.index.equals(reference.index):  # nearly always: a whole table of claims has thousands of these
        return values - reference.to_numpy()
    on = CLIP if same else PAIR
    left, right = (v.rename(name).reset_index() for v, name in ((values, "a"), (reference, "b")))
    if not same and right[TRAINING].nunique() > 1:
        left = left.drop(columns=TRAINING)
    elif not same:
        right = right.drop(columns=TRAINING)
    both = left.merge(right, on=on)
    return (both["a"] - both["b"]).set_axis(pd.MultiIndex.from_frame(both[CLIP]))
