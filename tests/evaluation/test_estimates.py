"""t-intervals and exact tests against their formulas, scipy's own tests, and simulated data of known truth."""

import math

import numpy as np
import pytest
from scipy import stats

from vibe_pipeline.evaluation.bootstrap import Bootstrap
from vibe_pipeline.evaluation.differences import paired_difference
from vibe_pipeline.evaluation.estimates import Estimate, crossed, of_seeds, over_training_seeds, yes_no


def drawn(rng, prompts=24, seeds=4, of_prompts=0.03, of_seeds=0.015, of_rest=0.012, mean=0.0):
    """Differences [prompts, training seeds] of crossed random effects."""
    shared = of_prompts * rng.standard_normal((prompts, 1)) + of_seeds * rng.standard_normal(seeds)
    return mean + shared + of_rest * rng.standard_normal((prompts, seeds))


def test_with_one_training_seed_it_is_the_paired_t_test():
    values = np.random.default_rng(0).normal(0.3, 1, (12, 1))
    found, expected = crossed(values), stats.ttest_1samp(values[:, 0], 0)
    assert found.p_different() == pytest.approx(expected.pvalue)
    assert found.interval(0.9) == pytest.approx(tuple(expected.confidence_interval(0.9)))
    assert found.p_different(0.5) == pytest.approx(stats.ttest_1samp(values[:, 0], 0.5).pvalue)
    assert over_training_seeds(values) is None


def test_equivalence_is_two_one_sided_tests():
    values = np.random.default_rng(0).normal(0.1, 1, (50, 1))
    for margin, limit in ((0.5, 0.0), (0.5, 0.2), (0.05, 0.0)):
        above = stats.ttest_1samp(values[:, 0], limit - margin, alternative="greater").pvalue
        below = stats.ttest_1samp(values[:, 0], limit + margin, alternative="less").pvalue
        assert crossed(values).p_equivalent(margin, limit) == pytest.approx(min(1, 2 * max(above, below)))


@pytest.mark.parametrize("margin", [0.1, 0.2, 0.3])
def test_p_values_and_intervals_say_the_same(margin):
    for mean in np.linspace(-0.3, 0.3, 25):
        found = Estimate(mean, 0.06, 9.0)
        low, high = found.interval(0.95)
        assert (found.p_different() < 0.05) == (low > 0 or high < 0)
        assert (found.p_equivalent(margin) < 0.05) == (-margin < low and high < margin)


def test_over_training_seeds_is_a_t_test_of_their_means():
    values = drawn(np.random.default_rng(1), mean=0.02)
    expected = stats.ttest_1samp(values.mean(0), 0)
    assert over_training_seeds(values).p_different() == pytest.approx(expected.pvalue)
    other = drawn(np.random.default_rng(2), seeds=3, of_seeds=0.05)
    welch = stats.ttest_ind(values.mean(0), other.mean(0), equal_var=False)
    assert over_training_seeds(values, other).p_different() == pytest.approx(welch.pvalue)
    assert over_training_seeds(values, other).mean == pytest.approx(values.mean() - other.mean())


def test_random_effects_follow_their_mean_squares():
    """Against the textbook's table of the two-way layout, written out."""
    values = drawn(np.random.default_rng(3), prompts=10, seeds=3)
    (prompts, seeds), rows, columns = values.shape, values.mean(1), values.mean(0)
    rest = values - rows[:, None] - columns + values.mean()
    ms_prompts, ms_seeds = seeds * rows.var(ddof=1), prompts * columns.var(ddof=1)
    ms_rest = (rest**2).sum() / ((prompts - 1) * (seeds - 1))
    assert ms_seeds > ms_rest
    total = ms_prompts + ms_seeds - ms_rest
    freedom = total**2 / (
        ms_prompts**2 / (prompts - 1) + ms_seeds**2 / (seeds - 1) + ms_rest**2 / ((prompts - 1) * (seeds - 1))
    )
    found = crossed(values)
    assert (found.mean, found.error) == pytest.approx((values.mean(), math.sqrt(total / (prompts * seeds))))
    assert found.freedom == pytest.approx(freedom)
    assert of_seeds(values) == pytest.approx((ms_seeds - ms_rest) / (prompts * seeds))


def test_random_effects_find_the_variance_that_the_data_were_made_with():
    rng = np.random.default_rng(4)
    errors = [crossed(drawn(rng)).error ** 2 for _ in range(2000)]
    assert np.mean(errors) == pytest.approx(0.03**2 / 24 + 0.015**2 / 4 + 0.012**2 / 96, rel=0.05)


@pytest.mark.parametrize("between", [0.0, 0.005, 0.015, 0.03])
def test_intervals_cover_what_they_say_however_much_training_seeds_differ(between):
    """Where the bootstrap covers too little; either t alone may too, where the other's variance is what matters."""
    rng, runs, missed = np.random.default_rng(5), 1500, {"both": 0, "bootstrap": 0, "seeds": 0}
    quick = Bootstrap(samples=200)
    for run in range(runs):
        values = drawn(rng, of_seeds=between)
        outside = [test.p_different() < 0.05 for test in (crossed(values), over_training_seeds(values))]
        missed["both"] += all(outside)
        missed["seeds"] += outside[1]
        if run < 300:
            low, high = quick.interval(values)
            missed["bootstrap"] += not low < 0 < high
    assert missed["both"] / runs < 0.06
    if between == 0.03:
        assert missed["bootstrap"] / 300 > 0.08
    if between == 0.0:
        assert missed["seeds"] / runs > 0.2


def test_two_arms_with_training_seeds_of_their_own():
    rng, covered = np.random.default_rng(6), 0
    for _ in range(800):
        level = rng.normal(0, 1, (24, 1))
        a, b = (level + drawn(rng, seeds=seeds, of_seeds=0.05) for seeds in (4, 5))
        found = crossed(a, b)
        assert found.mean == pytest.approx(a.mean() - b.mean())
        low, high = found.interval(0.95)
        covered += low < 0 < high
    assert covered / 800 > 0.92


def test_nothing_that_varies_and_nothing_at_all():
    same = crossed(np.full((8, 2), 0.5))
    assert same.interval(0.95) == (0.5, 0.5) and same.p_different() == 0 and same.p_different(0.5) == 1
    assert same.p_equivalent(1.0) == 0 and same.p_equivalent(0.5) == 1 and same.p_equivalent(0.1) == 1
    assert math.isnan(crossed(np.full((1, 1), 0.5)).p_different())
    assert math.isnan(crossed(np.empty((0, 1))).mean) and over_training_seeds(np.empty((0, 1))) is None


def pairs(both, first, second, neither):
    """Differences of prompts: right in both arms, the first alone, the second alone, neither."""
    return np.repeat([0.0, 1.0, -1.0, 0.0], [both, first, second, neither])


@pytest.mark.parametrize(("first", "second"), [(0, 0), (5, 0), (6, 0), (3, 9), (20, 20)])
def test_yes_or_no_is_mcnemars_exact_test(first, second):
    found = yes_no(pairs(10, first, second, 3))
    discordant = first + second
    at_most = sum(math.comb(discordant, k) for k in range(min(first, second) + 1)) / 2**discordant
    assert found.p_different() == pytest.approx(min(1, 2 * at_most))


def test_bonett_and_prices_interval():
    """By the formula, of 21 pairs: 1 and 7 discordant."""
    low, high = yes_no(pairs(12, 1, 7, 1)).interval(0.95)
    one, other = 2 / 23, 8 / 23
    half = 1.959964 * math.sqrt((one + other - (one - other) ** 2) / 23)
    assert (low, high) == pytest.approx((one - other - half, one - other + half), abs=1e-6)
    assert yes_no(pairs(12, 1, 7, 1)).p_different(0.1) == pytest.approx(
        2 * stats.norm.sf(abs(one - other - 0.1) / (half / 1.959964)), rel=1e-5
    )


def test_yes_or_no_keeps_its_error_and_its_coverage():
    rng, runs, told, covered = np.random.default_rng(7), 1500, 0, 0
    for _ in range(runs):
        found = yes_no(rng.choice([0.0, 1.0, -1.0], 64, p=[0.9, 0.05, 0.05]))
        told += found.p_different() < 0.05
        low, high = found.interval(0.95)
        covered += low < 0 < high
    assert told / runs < 0.05 and covered / runs > 0.945


def test_clips_of_a_prompt_count_once():
    """Two clips a prompt: whether it is ahead, and by which share."""
    found = yes_no(np.array([0.5, 1.0, -0.5, 0.0]))
    assert (found.gained, found.lost, found.ahead, found.behind, found.prompts) == (1.5, 0.5, 2, 1, 4)


def test_a_measure_is_yes_or_no_where_all_its_clips_are(scored_pairs):
    assert paired_difference(scored_pairs(1.0), "a", "b", "m").exact is not None
    assert paired_difference(scored_pairs(0.5), "a", "b", "m").exact is None
    assert "prompts that differ" in paired_difference(scored_pairs(1.0), "a", "b", "m").tests


@pytest.fixture
def scored_pairs():
    import pandas as pd

    def made(value):
        rows = [(arm, p, 0, "m", value if arm == "a" and p else 0.0) for arm in "ab" for p in range(4)]
        table = pd.DataFrame(rows, columns=["arm", "prompt_index", "seed", "metric", "value"])
        return table.assign(direction="higher", family="miniature", status="scored", reason="")

    return made
