"""Levels of several looks: published boundaries, an independent integral, and verdicts that are held to them."""

import math

import numpy as np
import pytest
from scipy.special import stdtr
from scipy.stats import multivariate_normal

from vibe_pipeline.evaluation.bootstrap import Bootstrap
from vibe_pipeline.evaluation.claims import judge_evidence
from vibe_pipeline.evaluation.differences import difference_between
from vibe_pipeline.evaluation.readings import EQUIVALENT, HOLDS, OPEN, Question, level, read
from vibe_pipeline.evaluation.sequential import ONLY_LOOK, SPENT, Look, boundaries, look_of
from vibe_pipeline.experiment.claims import Asked, Claim
from vibe_pipeline.experiment.generation import GenerationParams

BLOCKS = (16, 32, 64, 128)
LOOKS = [(number, spending) for number in range(1, 5) for spending in SPENT]


@pytest.mark.parametrize(
    ("looks", "spending", "published"),
    [
        # Two-sided .05, equal spacing, as the programs of Reboussin et al. (Control. Clin. Trials 21, 2000) print them.
        (2, "obrien_fleming", (2.963, 1.969)),
        (3, "obrien_fleming", (3.710, 2.511, 1.993)),
        (4, "obrien_fleming", (4.333, 2.963, 2.359, 2.014)),
        (5, "obrien_fleming", (4.877, 3.357, 2.680, 2.290, 2.031)),
        (2, "pocock", (2.157, 2.201)),
        (5, "pocock", (2.438, 2.427, 2.410, 2.397, 2.386)),
    ],
)
def test_boundaries_are_the_published_ones(looks: int, spending, published: tuple[float, ...]) -> None:
    found = boundaries(tuple(range(1, looks + 1)), looks, 0.05, spending)
    assert found == pytest.approx(published, abs=6e-4)


@pytest.mark.parametrize("spending", SPENT)
@pytest.mark.parametrize("blocks", [(16, 32, 64), (48, 64, 128)])
def test_what_is_spent_until_each_look_is_the_chance_of_any_look_beyond_its_boundary(blocks, spending) -> None:
    """By the looks' joint normal distribution, where two are correlated by √(prompts of one / prompts of the other)."""
    found, n = np.array(boundaries(blocks, blocks[-1], 0.05, spending)), np.array(blocks)
    joint = np.sqrt(np.minimum.outer(n, n) / np.maximum.outer(n, n))
    for seen in range(2, len(blocks) + 1):
        ends, rng = found[:seen], np.random.default_rng(0)
        within = multivariate_normal.cdf(ends, cov=joint[:seen, :seen], lower_limit=-ends, abseps=3e-7, rng=rng)
        assert 1 - within == pytest.approx(SPENT[spending](n[seen - 1] / n[-1], 0.05), abs=2e-6)


@pytest.mark.parametrize(("number", "spending"), LOOKS)
def test_a_p_value_of_all_looks_is_the_level_at_which_it_would_be_told(number: int, spending) -> None:
    look = Look(number, BLOCKS, spending)
    wholes = [1e-6, 0.05 / 14, 0.01, 0.05, 0.3]
    assert [look.over_all(look.level(whole)) for whole in wholes] == pytest.approx(wholes, rel=2e-3)
    seen = [look.over_all(p) for p in np.geomspace(1e-200, 1, 400)]
    assert seen == sorted(seen) and 0 < seen[0] <= 1e-9 and seen[-1] == 1
    assert look.over_all(0.0) == seen[0] and math.isnan(look.over_all(math.nan))


@pytest.mark.parametrize("spending", SPENT)
def test_a_share_of_the_whole_level_is_held_to_less_than_that_share_of_a_looks_level(spending) -> None:
    """Why Holm's method is over p-values of all looks, and not at each look's level."""
    for number in (1, 2, 3):
        look = Look(number, BLOCKS, spending)
        assert look.level(0.05 / 14) <= look.level(0.05) / 14 * (1 + 1e-6)
    assert sum(Look(k, BLOCKS, spending).level(0.05) for k in range(1, 5)) > 0.05, "looks go together"


def test_the_only_look_changes_nothing() -> None:
    assert ONLY_LOOK.level(0.05) == 0.05 and ONLY_LOOK.over_all(0.123) == 0.123
    assert (ONLY_LOOK.of, ONLY_LOOK.said, ONLY_LOOK.last) == (1, "", ONLY_LOOK)


def test_looks_that_have_next_to_no_level_tell_nothing() -> None:
    look = Look(1, (1, 1000))
    assert look.level(0.05) == 0 and look.over_all(1e-300) > 0.05


def test_the_chance_of_a_false_verdict_at_any_look_is_that_of_one() -> None:
    """By t-tests, whose spread is estimated at every look: 5.1 % by either, where looking at each at .05 has 14.6."""
    values, p = np.random.default_rng(3).standard_normal((40_000, BLOCKS[-1])), {}
    for n in BLOCKS:
        seen = values[:, :n]
        p[n] = 2 * stdtr(n - 1, -abs(seen.mean(axis=1)) / seen.std(axis=1, ddof=1) * math.sqrt(n))
    false = {
        spending: np.any(
            [p[n] <= Look(k, BLOCKS, spending).level(0.05) for k, n in enumerate(BLOCKS, 1)], axis=0
        ).mean()
        for spending in SPENT
    }
    plain = np.any([p[n] <= 0.05 for n in BLOCKS], axis=0).mean()
    assert list(false.values()) == pytest.approx([0.05, 0.05], abs=0.0035)  # three standard errors
    assert plain > 0.13


def test_which_look_a_run_makes() -> None:
    growing = {"prompts": "miniature", "sequential": {"blocks": BLOCKS, "spending": "pocock"}}
    assert look_of(GenerationParams(**growing, count=64)) == Look(3, BLOCKS, "pocock")
    assert Look(3, BLOCKS).said == "look 3 of 4, 64 of at most 128 prompts"
    assert look_of(GenerationParams(prompts="miniature", count=64)) == ONLY_LOOK
    for count in (40, None):
        with pytest.raises(ValueError, match=rf"count {count} is none of the looks \[16, 32, 64, 128\]"):
            look_of(GenerationParams(**growing, count=count))


def gains(mean: float, prompts: int = 16) -> np.ndarray:
    """Differences of this mean and standard deviation 1, one a prompt."""
    spread = np.linspace(-1, 1, prompts)
    return (mean + spread / spread.std(ddof=1))[:, None]


def test_a_measure_is_told_at_the_look_that_may_tell_it() -> None:
    """The same p-value of about .01: told at the only look and at the last, not at the first two."""
    question, found = Question("m", "higher", 0.1), difference_between(gains(0.74))
    p = read(question, found).p_different
    assert 0.005 < p < 0.015
    said = {}
    for number in (1, 2, 3, 4):
        seen = read(question, found, Bootstrap(look=Look(number, BLOCKS)))
        said[number] = seen.corrected
        assert seen.p_different == p and seen.verdict == seen.corrected
        assert seen.corrected_different == Look(number, BLOCKS).over_all(p)
    assert said == {1: OPEN, 2: OPEN, 3: OPEN, 4: HOLDS} and read(question, found).corrected == HOLDS
    early = read(question, found, Bootstrap(look=Look(2, BLOCKS)))
    assert early.reason == f"p = {p:.2g}, and look 2 of 4, 32 of at most 128 prompts tells from 1.5e-05 on"
    assert read(question, found, Bootstrap(look=Look(1, BLOCKS, "pocock"))).corrected == OPEN
    assert level(early, Bootstrap(look=Look(2, BLOCKS))) == 1 - Look(4, BLOCKS).level(0.05)


def test_equivalence_is_held_to_the_look_too() -> None:
    question, found = Question("m", "higher", 0.9), difference_between(gains(0.1))
    assert read(question, found).verdict == EQUIVALENT
    assert read(question, found, Bootstrap(look=Look(2, BLOCKS))).verdict == OPEN
    assert read(question, found, Bootstrap(look=Look(4, BLOCKS))).verdict == EQUIVALENT


def test_claims_are_corrected_over_p_values_of_all_looks() -> None:
    bootstrap, question = Bootstrap(samples=200, look=Look(3, BLOCKS)), Question("m", "higher", 0.1)
    asked = Asked(metric="m", better="higher", margin=0.1)
    claims = [Claim(name=n, statement="s", kind="k", arm="a", other=n, primary=asked) for n in "xy"]
    evidence = [[read(question, difference_between(gains(mean)), bootstrap)] for mean in (1.3, 0.97)]
    first, second = (j.evidence[0] for j in judge_evidence(claims, evidence, bootstrap))
    alone = [Look(3, BLOCKS).over_all(e.p_different) for e in (first, second)]
    assert first.corrected_different == 2 * alone[0] and second.corrected_different == max(2 * alone[0], alone[1])
