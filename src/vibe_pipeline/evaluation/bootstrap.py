"""Bootstrap intervals over prompts and, crossed with them, training seeds.

Where an arm was trained with several seeds, prompts and training seeds are resampled independently of each other
(Owen, The pigeonhole bootstrap, 2007). Resamples of few seeds vary too little, by (S - 1) / S, so effects of the S
seeds are stretched by sqrt(S / (S - 1)) first. With two or three seeds an interval is still narrower than its
confidence says, though far wider than one that ignores them.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vibe_pipeline.evaluation.sequential import ONLY_LOOK, Look

Matrix = NDArray[np.float64]
"""Scores [prompts, training seeds], NaN where there is none."""


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are drawn, and at which look what they say is told.

    Attributes:
        samples: How many resamples.
        confidence: Of the intervals; what is left of 1 is the chance of a false verdict, of all looks together.
        seed: Of the resamples.
        look: Which look at a growing number of prompts this is: p-values are corrected for the others.
    """

    samples: int = 2000
    confidence: float = 0.95
    seed: int = 0
    look: Look = ONLY_LOOK

    @property
    def fewest_pairs(self) -> int:
        """Fewest prompts at which agreement of all signs is rarer than 1 − confidence by chance."""
        return math.ceil(1 - math.log2(1 - self.confidence))

    def interval(self, values: Matrix, less: Matrix | None = None) -> tuple[float, float]:
        """Percentile interval of the mean over prompts of the mean over training seeds.

        Args:
            values: Scores or paired differences.
            less: Scores of the same prompts to subtract, whose training seeds are not those of `values`.

        Returns:
            Both ends; NaN for fewer than two prompts, where nothing can be resampled.
        """
        prompts = len(values)
        if prompts < 2:
            return math.nan, math.nan
        several = values.shape[1] > 1 or less is not None
        drawn = _draws(self.seed, self.samples, prompts)
        means = self._crossed(values, less, drawn) if several else values[:, 0][drawn].mean(axis=1)
        tail = (1 - self.confidence) / 2
        low, high = np.quantile(means, [tail, 1 - tail])
        return float(low), float(high)

    def over_seeds_of_each(self, resamples: Matrix, stream: int) -> NDArray[np.float64]:
        """Means [B] of resampled figures [B, training seeds], over seeds that are drawn again for each resample.

        Args:
            resamples: The figures, none missing.
            stream: Arms whose training seeds are not paired draw from different ones.
        """
        samples, seeds = resamples.shape
        if seeds == 1:
            return resamples[:, 0]
        weights = _counts(_draws((self.seed, stream), samples, seeds), seeds)
        return (_stretched(resamples) * weights).sum(axis=1) / seeds

    def _crossed(self, values: Matrix, less: Matrix | None, drawn: NDArray[np.int64]) -> NDArray[np.float64]:
        """Means over resampled prompts of means over resampled training seeds, of the resamples with any score."""
        by_prompt = self._over_seeds(values, 1)
        if less is not None:
            by_prompt = by_prompt - self._over_seeds(less, 2)
        weights = _counts(drawn, len(values))
        there = np.isfinite(by_prompt)
        total = np.einsum("bp,pb->b", weights, np.where(there, by_prompt, 0.0))
        count = np.einsum("bp,pb->b", weights, there.astype(float))
        return total[count > 0] / count[count > 0]

    def _over_seeds(self, values: Matrix, stream: int) -> NDArray[np.float64]:
        """Means [prompts, samples] over resampled training seeds; NaN where none of those drawn has a score."""
        seeds = values.shape[1]
        weights = _counts(_draws((self.seed, stream), self.samples, seeds), seeds).T
        there = np.isfinite(values)
        total, count = np.where(there, _stretched(values), 0.0) @ weights, there @ weights
        return np.divide(total, count, out=np.full_like(total, math.nan), where=count > 0)


def _stretched(values: Matrix) -> Matrix:
    """Scores whose training seeds differ by sqrt(S / (S - 1)) times what they did, with the same mean."""
    seeds = values.shape[1]
    if seeds < 2:
        return values
    effects = np.nanmean(values - np.nanmean(values, axis=1, keepdims=True), axis=0)
    return values + (math.sqrt(seeds / (seeds - 1)) - 1) * (effects - effects.mean())


@functools.lru_cache(maxsize=8)
def _draws(seed: int | tuple[int, ...], samples: int, units: int) -> NDArray[np.int64]:
    """Resamples [samples, units] of the numbers below `units`."""
    drawn = np.random.default_rng(seed).integers(0, units, (samples, units))
    drawn.flags.writeable = False
    return drawn


def _counts(drawn: NDArray[np.int64], units: int) -> NDArray[np.float64]:
    """How often each unit was drawn, [samples, units]."""
    samples = len(drawn)
    flat = (drawn + units * np.arange(samples)[:, None]).ravel()
    return np.bincount(flat, minlength=samples * units).reshape(samples, units).astype(float)


DEFAULT_BOOTSTRAP = Bootstrap()
