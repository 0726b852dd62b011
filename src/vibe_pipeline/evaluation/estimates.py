"""Means with what is known of their error: t-intervals, and tests of being different and of being equivalent.

A bootstrap over few prompts or training seeds is too narrow (see :mod:`.bootstrap`). These stand beside it, each with
as many degrees of freedom as the data have, and a claim is told only where all of them tell it (:mod:`.claims`):

- :func:`crossed`: prompts and training seeds as crossed random effects, by the method of moments; the mixed model
  difference ~ 1 + (1 | prompt) + (1 | training seed), whose estimates are those of REML where no clip is missing;
- :func:`over_training_seeds`: training seeds alone, each one's mean over prompts a single observation;
- :class:`YesNo`: of a measure that is right or wrong, an exact test.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vibe_pipeline.evaluation.bootstrap import Matrix

Vector = NDArray[np.float64]


class Test(Protocol):
    """What a claim asks of a difference."""

    def interval(self, confidence: float) -> tuple[float, float]:
        """Both ends of the two-sided interval of the difference."""

    def p_different(self, limit: float = 0.0) -> float:
        """Two-sided p-value of the difference being `limit`."""

    def p_equivalent(self, margin: float, limit: float = 0.0) -> float:
        """P-value of the difference lying `margin` or more from `limit`: small where it is shown to lie nearer.

        Two one-sided tests (Schuirmann, J. Pharmacokin. Biopharm. 15, 1987), doubled, so that it is below 1 −
        confidence where the two-sided interval of that confidence lies within the margin.
        """


@dataclass(frozen=True)
class Estimate:
    """A mean, its standard error, and the degrees of freedom of that (infinite: normal)."""

    mean: float
    error: float
    freedom: float

    def interval(self, confidence: float) -> tuple[float, float]:
        """Both ends; the mean itself where nothing varies, NaN where nothing is known of the error."""
        from scipy.special import stdtrit  # only where a claim is judged: commands that plan import this module

        half = float(stdtrit(self.freedom, (1 + confidence) / 2)) * self.error
        return self.mean - half, self.mean + half

    def p_different(self, limit: float = 0.0) -> float:
        """Of the t-test; NaN where nothing is known of the error."""
        return min(2 * self._beyond(abs(self.mean - limit)), 1.0)

    def p_equivalent(self, margin: float, limit: float = 0.0) -> float:
        """Of the two one-sided t-tests, whose larger p-value is that of the nearer end of the margin."""
        return min(2 * self._beyond(margin - abs(self.mean - limit)), 1.0)

    def _beyond(self, distance: float) -> float:
        """Chance of an error of that size or more, to one side."""
        if self.error == 0:
            return 0.0 if distance > 0 else 1.0
        from scipy.special import stdtr

        return float(stdtr(self.freedom, -distance / self.error))


@dataclass(frozen=True)
class YesNo:
    """Differences of a measure that is 0 or 1 on every clip.

    Attributes:
        gained: Prompts that are right in the first arm and wrong in the other; of a prompt with several clips the
            share by which it is ahead.
        lost: The other way round.
        ahead: Prompts that are ahead at all.
        behind: Prompts that are behind.
        prompts: All of them.
    """

    gained: float
    lost: float
    ahead: int
    behind: int
    prompts: int

    def interval(self, confidence: float) -> tuple[float, float]:
        """Of the difference of the shares: Bonett and Price's (Stat. Methods Med. Res. 21, 2012)."""
        return self._adjusted().interval(confidence)

    def p_different(self, limit: float = 0.0) -> float:
        """Exact, of the prompts that differ as many being ahead as behind; with one clip a prompt McNemar's test.

        Of another limit than 0, as of the interval.
        """
        if limit:
            return self._adjusted().p_different(limit)
        from scipy.stats import binomtest  # slow to import, and commands that run nothing read this file

        differing = self.ahead + self.behind
        return float(binomtest(self.ahead, differing).pvalue) if differing else 1.0

    def p_equivalent(self, margin: float, limit: float = 0.0) -> float:
        """As of the interval."""
        return self._adjusted().p_equivalent(margin, limit)

    def _adjusted(self) -> Estimate:
        """One prompt more on either side: arms that never differ are then not equal for certain, as 0 ± 0 would say.

        Of several intervals of paired shares this one keeps its coverage in small samples (Fagerland, Lydersen and
        Laake, Stat. Med. 33, 2014).
        """
        gained, lost = ((count + 1) / (self.prompts + 2) for count in (self.gained, self.lost))
        variance = (gained + lost - (gained - lost) ** 2) / (self.prompts + 2)
        return Estimate(gained - lost, math.sqrt(variance), math.inf)


def crossed(matrix: Matrix, less: Matrix | None = None) -> Estimate:
    """The mean of differences [prompts, training seeds] with prompts and training seeds drawn at random.

    Its variance is that of the means over prompts, by how many there are, plus what training seeds add
    (:func:`of_seeds`); degrees of freedom are Satterthwaite's (Biometrics Bulletin 2, 1946) of those mean squares.

    Args:
        matrix: Scores or paired differences, NaN where there is none.
        less: Scores of the same prompts to subtract, whose training seeds are not those of `matrix`.

    Returns:
        NaN errors with fewer than two prompts.

    Source: Searle, Casella and McCulloch, Variance Components, 1992, chapter 4.
    """
    by_prompt = prompt_means(matrix) - (0.0 if less is None else prompt_means(less))
    prompts = len(by_prompt)
    if prompts < 2:
        return Estimate(float(by_prompt.mean()) if prompts else math.nan, math.nan, math.nan)
    whole = float(by_prompt.var(ddof=1)) / prompts
    spent = whole**2 / (prompts - 1)
    for side in (matrix,) if less is None else (matrix, less):
        seeds = side.shape[1]
        if seeds > 1:
            between, residual = _mean_squares(side)
            whole += of_seeds(side)
            spent += between**2 / (seeds - 1) + residual**2 / ((prompts - 1) * (seeds - 1))
    return Estimate(float(by_prompt.mean()), math.sqrt(whole), whole**2 / spent if spent else math.inf)


def over_training_seeds(matrix: Matrix, less: Matrix | None = None) -> Estimate | None:
    """The mean of one figure a training seed, its mean over prompts; None with a single training seed.

    Two arms with training seeds of their own are two samples, of unequal variance (Welch).
    """
    sides = [np.nanmean(side, axis=0) for side in (matrix, less) if side is not None and len(side)]
    if not sides or min(map(len, sides)) < 2:
        return None
    parts = [float(side.var(ddof=1)) / len(side) for side in sides]
    spent = sum(part**2 / (len(side) - 1) for part, side in zip(parts, sides, strict=True))
    mean = float(sides[0].mean()) - (float(sides[1].mean()) if less is not None else 0.0)
    return Estimate(mean, math.sqrt(sum(parts)), sum(parts) ** 2 / spent if spent else math.inf)


def yes_no(by_prompt: Vector) -> YesNo:
    """Of the mean difference of each prompt, on a measure that is 0 or 1 on every clip."""
    gained, lost = (float(np.clip(sign * by_prompt, 0, None).sum()) for sign in (1, -1))
    return YesNo(gained, lost, int((by_prompt > 0).sum()), int((by_prompt < 0).sum()), len(by_prompt))


def of_seeds(matrix: Matrix) -> float:
    """Variance of the grand mean that columns add: what their means differ by, less what their residuals explain."""
    if min(matrix.shape) < 2:
        return 0.0
    between, residual = _mean_squares(matrix)
    return max(0.0, between - residual)


def prompt_means(matrix: Matrix) -> Vector:
    """Means over training seeds, of those that have a score."""
    return matrix[:, 0] if matrix.shape[1] == 1 else np.nanmean(matrix, axis=1)


def _mean_squares(matrix: Matrix) -> tuple[float, float]:
    """Between columns and of the residuals, as parts of the grand mean's variance."""
    prompts, seeds = matrix.shape
    columns, rows = np.nanmean(matrix, axis=0), np.nanmean(matrix, axis=1)
    residual = matrix - columns - rows[:, None] + columns.mean()
    noise = float(np.nansum(residual**2)) / ((prompts - 1) * (seeds - 1))
    return float(columns.var(ddof=1)) / seeds, noise / prompts / seeds
