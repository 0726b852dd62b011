"""The Fréchet distance between two sets of features, each taken for a normal distribution, and how sure it is.

Source: Dowson and Landau, J. Multivariate Analysis 12 (1982); as FID (Heusel et al., 2017) and FVD (Unterthiner et
al., 2018) use it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.floating]
FEWEST_PROMPTS = 8
"""Clips of fewer give no spread over prompts worth printing."""
RESAMPLES = 200


@dataclass(frozen=True)
class Moments:
    """Mean [D] and covariance [D, D] of a set."""

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]


def moments(features: Features) -> Moments:
    """Of features [N, D].

    Raises:
        ValueError: There are fewer than two.
    """
    if len(features) < 2:
        raise ValueError(f"a distribution needs at least 2 samples; there {_are(len(features))}")
    values = np.asarray(features, np.float64)
    return Moments(values.mean(axis=0), np.atleast_2d(np.cov(values, rowvar=False)))


def _are(count: int) -> str:
    return "is 1" if count == 1 else f"are {count}"


def root(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The symmetric square root of a covariance; eigenvalues below 0 by rounding count as 0."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def frechet_distance(one: Moments, other: Moments, root_of_other: NDArray[np.float64] | None = None) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), at least 0.

    The trace of the root is that of (S2^(1/2) S1 S2^(1/2))^(1/2), which is symmetric: no complex root, and none that
    fails where a covariance has no full rank.

    Args:
        one: Of the clips.
        other: Of the real ones.
        root_of_other: Of its covariance, where many are compared with it.
    """
    half = root(other.covariance) if root_of_other is None else root_of_other
    crossed = np.sqrt(np.maximum(np.linalg.eigvalsh(half @ one.covariance @ half), 0)).sum()
    apart = one.mean - other.mean
    return max(0.0, float(apart @ apart + np.trace(one.covariance) + np.trace(other.covariance) - 2 * crossed))


@dataclass(frozen=True)
class Spread:
    """What resampling clips says of a distance.

    Attributes:
        below: From the distance to the lower end of its interval.
        above: To the upper end.
        bias: How far resamples lie above the distance on average: about as far as it lies above that of endless clips.
        resamples: The distances themselves. The i-th is of the same draw in every set of as many prompts, so that those
            of two sets with the same prompts may be subtracted.
    """

    below: float = math.nan
    above: float = math.nan
    bias: float = math.nan
    resamples: tuple[float, ...] = ()


def spread(
    clips: Sequence[Features], prompts: Sequence[int], real: Moments, confidence: float = 0.95, seed: int = 0
) -> Spread:
    """Bootstrap over prompts, whose clips and patches stay together; nothing below :data:`FEWEST_PROMPTS` prompts.

    A set of few samples lies too far from any other, and a resample, which holds fewer different ones, farther still:
    so the resamples' spread is taken about their own mean and says how much other prompts would change the figure, and
    that mean over the figure itself says how much it is too high.

    Args:
        clips: Features [patches, D] of each.
        prompts: The prompt of each, by its index: what is drawn, in the order of indices.
        real: Of the real clips, which are not resampled: they are the same for every arm.
        confidence: Of the interval.
        seed: Of the draws.
    """
    _, of_prompt = np.unique(np.asarray(prompts), return_inverse=True)
    count = int(of_prompt.max(initial=-1)) + 1
    if count < FEWEST_PROMPTS:
        return Spread()
    half, rng = root(real.covariance), np.random.default_rng(seed)
    value = frechet_distance(moments(np.concatenate(clips)), real, half)
    sums = _Sums(clips)
    drawn = (rng.multinomial(count, np.full(count, 1 / count))[of_prompt] for _ in range(RESAMPLES))
    found = np.array([frechet_distance(sums.moments(times), real, half) for times in drawn])
    tail = (1 - confidence) / 2
    low, high = np.quantile(found, [tail, 1 - tail]) - found.mean()
    return Spread(float(-low), float(high), float(found.mean() - value), tuple(map(float, found)))


class _Sums:
    """Sums of each clip's features and of their products: a resample's moments are sums of these.

    Where a clip has one row, the products [clips, D, D] would be as many times larger as they save nothing: 13 GB for
    10,000 clips of I3D. They are then made for each resample.
    """

    def __init__(self, clips: Sequence[Features]):
        values = [np.asarray(clip, np.float64) for clip in clips]
        self._centre = np.concatenate(values).mean(axis=0)  # else the products lose what they differ in
        values = [clip - self._centre for clip in values]
        self._counts = np.array([len(clip) for clip in values])
        self._sums = np.stack([clip.sum(axis=0) for clip in values])
        self._single = np.concatenate(values) if (self._counts == 1).all() else None
        self._products = None if self._single is not None else np.stack([clip.T @ clip for clip in values])

    def moments(self, times: NDArray[np.int64]) -> Moments:
        """Of a set in which each clip stands so many times."""
        number = int(times @ self._counts)
        mean = times @ self._sums / number
        if self._single is not None:
            products = self._single.T @ (times[:, None] * self._single)
        else:
            products = np.tensordot(times.astype(np.float64), np.asarray(self._products), axes=1)
        return Moments(mean + self._centre, (products - number * np.outer(mean, mean)) / (number - 1))
