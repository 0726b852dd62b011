"""Holm's correction against a worked example, and against what it promises."""

import math

import numpy as np
import pytest

from vibe_pipeline.evaluation.multiplicity import holm


def test_a_worked_example():
    """Holm (1979) and every textbook: times 4, 3, 2, 1 in order, none below one before it."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6]) == pytest.approx([1.0, 1.0])
    assert holm([0.2]) == [0.2] and holm([]) == []


def test_what_was_not_tested_is_not_in_the_family():
    found = holm([0.01, math.nan, 0.02])
    assert found[0] == pytest.approx(0.02) and math.isnan(found[1]) and found[2] == pytest.approx(0.02)


def test_any_false_one_is_as_rare_as_promised_and_it_is_sharper_than_bonferroni():
    rng, runs = np.random.default_rng(0), 4000
    false = uncorrected = 0
    for _ in range(runs):
        p = rng.random(10)
        uncorrected += min(p) < 0.05
        false += min(holm(p)) < 0.05
    assert uncorrected / runs > 0.35
    assert false / runs == pytest.approx(0.05, abs=0.012)
    assert holm([0.001, 0.02, 0.02]) == pytest.approx([0.003, 0.04, 0.04])
