"""The Fréchet distance against its closed form, and what resampling says of it."""

import math

import numpy as np
import pytest
from scipy import linalg

from vibe_pipeline.evaluation.metrics.frechet import Moments, frechet_distance, moments, spread

RNG = np.random.default_rng(0)


def random_moments(size: int, rank: int) -> Moments:
    factor = RNG.standard_normal((size, rank))
    return Moments(RNG.standard_normal(size), factor @ factor.T)


def test_equal_sets_are_at_no_distance() -> None:
    features = RNG.standard_normal((40, 6))
    assert frechet_distance(moments(features), moments(features[::-1])) == pytest.approx(0, abs=1e-6)
    few = RNG.standard_normal((3, 6))  # no full rank
    assert frechet_distance(moments(few), moments(few)) == pytest.approx(0, abs=1e-6)


def test_of_one_dimension_by_hand() -> None:
    """(m1 - m2)^2 + (s1 - s2)^2."""
    one, other = Moments(np.array([1.0]), np.array([[4.0]])), Moments(np.array([4.0]), np.array([[25.0]]))
    assert frechet_distance(one, other) == pytest.approx(3**2 + 3**2)


def test_of_commuting_covariances_by_hand() -> None:
    one = Moments(np.zeros(3), np.diag([1.0, 4.0, 9.0]))
    other = Moments(np.array([1.0, 2.0, 2.0]), np.diag([4.0, 4.0, 0.0]))
    assert frechet_distance(one, other) == pytest.approx(9 + (1 + 0 + 9))


def test_of_any_covariances_it_is_the_published_formula() -> None:
    one, other = random_moments(7, 20), random_moments(7, 20)
    apart = one.mean - other.mean
    crossed = linalg.sqrtm(one.covariance @ other.covariance).real
    expected = apart @ apart + np.trace(one.covariance + other.covariance - 2 * crossed)
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(other, one) == pytest.approx(expected, rel=1e-9)


def test_samples_of_two_normal_distributions_come_near_the_closed_form() -> None:
    drawn = RNG.standard_normal((20_000, 4)), 2 * RNG.standard_normal((20_000, 4)) + [3, 0, 0, 0]
    assert frechet_distance(*map(moments, drawn)) == pytest.approx(9 + 4 * (2 - 1) ** 2, rel=0.03)


def test_one_sample_has_no_distribution() -> None:
    with pytest.raises(ValueError, match="at least 2 samples; there is 1"):
        moments(np.zeros((1, 4)))


def test_resamples_tell_how_much_few_clips_raise_it() -> None:
    """Against known moments: over many arms of 20 clips the figure lies above the truth, 0, by what resampling says."""
    real = Moments(np.zeros(5), np.eye(5))
    values, biases = [], []
    for seed in range(30):
        clips = np.random.default_rng(seed).standard_normal((20, 1, 5))
        found = spread(clips, range(20), real, seed=seed)
        values.append(frechet_distance(moments(clips[:, 0]), real))
        biases.append(found.bias)
        assert found.below > 0 and found.above > 0
    assert np.mean(biases) == pytest.approx(np.mean(values), rel=0.35) and np.mean(values) > 0.3


def test_the_spread_shrinks_with_clips_and_patches_of_a_clip_stay_together() -> None:
    """Ten copies of a clip's patch say no more than one does."""
    real = Moments(np.full(4, 2.0), np.eye(4))
    clips = np.random.default_rng(1).standard_normal((40, 1, 4))
    alone, copied = (spread(c, range(40), real) for c in (clips, np.repeat(clips, 10, axis=1)))
    assert copied.above == pytest.approx(alone.above, rel=0.1)
    more = spread(np.random.default_rng(2).standard_normal((640, 1, 4)), range(640), real)
    assert more.above == pytest.approx(alone.above / 4, rel=0.35)


def test_resampled_moments_are_those_of_the_repeated_clips() -> None:
    from vibe_pipeline.evaluation.metrics.frechet import _Sums

    clips = [100 + RNG.standard_normal((n, 3)) for n in (4, 7, 2)]
    found, expected = _Sums(clips).moments(np.array([2, 0, 1])), moments(np.concatenate([clips[0], clips[0], clips[2]]))
    np.testing.assert_allclose(found.mean, expected.mean)
    np.testing.assert_allclose(found.covariance, expected.covariance, atol=1e-9)


def test_clips_of_one_prompt_are_drawn_together() -> None:
    """Ten seeds that made one and the same clip of every prompt say no more than one seed."""
    real = Moments(np.full(4, 2.0), np.eye(4))
    clips = list(np.random.default_rng(1).standard_normal((40, 1, 4)))
    alone, seeds = spread(clips, range(40), real), spread(clips * 10, [*range(40)] * 10, real)
    assert seeds.above == pytest.approx(alone.above, rel=0.1) and len(seeds.resamples) == len(alone.resamples)


def test_few_prompts_have_no_spread() -> None:
    found = spread(RNG.standard_normal((21, 3, 2)), [*range(7)] * 3, random_moments(2, 5))
    assert all(math.isnan(value) for value in (found.below, found.above, found.bias)) and not found.resamples
