"""The number of prompts that would decide, against simulated runs of that many."""

import numpy as np
import pandas as pd
import pytest

from vibe_pipeline.evaluation.bootstrap import Bootstrap
from vibe_pipeline.evaluation.differences import Difference, paired_difference
from vibe_pipeline.evaluation.power import least_told, prompts_by_spread, prompts_for_equivalence, prompts_needed

QUICK = Bootstrap(samples=400)


def seen(spread: float, **others) -> Difference:
    given = {"mean": 0.0, "low": -1.0, "high": 1.0, "clips": 16, "prompts": 16, "effect_size": 0.0, "training_seeds": 1}
    return Difference(**given | {"spread": spread} | others)


def share_told(prompts: int, effect: float, spread: float, runs: int = 300) -> float:
    """Of made-up runs, those whose bootstrap interval lies above 0."""
    rng = np.random.default_rng(0)
    drawn = (rng.normal(effect, spread, (prompts, 1)) for _ in range(runs))
    return float(np.mean([QUICK.interval(values)[0] > 0 for values in drawn]))


@pytest.mark.parametrize(("effect", "spread"), [(0.008, 0.03), (1.0, 2.0), (0.02, 0.1)])
def test_so_many_prompts_tell_it_four_times_in_five(effect: float, spread: float) -> None:
    needed = prompts_needed(seen(spread), effect, 0.95)
    assert needed == pytest.approx(7.849 * (spread / effect) ** 2, abs=1)
    assert share_told(needed, effect, spread) == pytest.approx(0.8, abs=0.07)
    assert share_told(needed // 2, effect, spread) < 0.65
    assert share_told(2 * needed, effect, spread) > 0.93


def test_a_side_of_the_difference_does_not_matter_and_nothing_is_never_told() -> None:
    assert prompts_needed(seen(0.1), -0.05, 0.95) == prompts_needed(seen(0.1), 0.05, 0.95)
    assert prompts_needed(seen(0.1), 0.0, 0.95) is None
    assert prompts_needed(seen(float("nan")), 0.1, 0.95) is None
    assert prompts_needed(seen(0.1), 0.05, 0.99) > prompts_needed(seen(0.1), 0.05, 0.95)


def share_equivalent(prompts: int, effect: float, margin: float, spread: float, runs: int = 300) -> float:
    """Of made-up runs, those whose bootstrap interval lies within the margin."""
    rng = np.random.default_rng(0)
    intervals = [QUICK.interval(rng.normal(effect, spread, (prompts, 1))) for _ in range(runs)]
    return float(np.mean([-margin < low and high < margin for low, high in intervals]))


@pytest.mark.parametrize(("effect", "margin"), [(0.0, 0.02), (0.004, 0.02), (-0.01, 0.02)])
def test_so_many_prompts_show_a_difference_to_be_equivalent_four_times_in_five(effect: float, margin: float) -> None:
    needed = prompts_for_equivalence(seen(0.1), effect, margin, 0.95)
    assert share_equivalent(needed, effect, margin, 0.1) == pytest.approx(0.8, abs=0.07)
    assert share_equivalent(needed // 2, effect, margin, 0.1) < 0.5
    assert prompts_for_equivalence(seen(0.1), -effect, margin, 0.95) == needed


def test_no_number_of_prompts_shows_what_is_not_so_or_what_training_seeds_hide() -> None:
    assert prompts_for_equivalence(seen(0.1), 0.02, 0.02, 0.95) is None
    assert prompts_for_equivalence(seen(float("nan")), 0.0, 0.02, 0.95) is None
    assert prompts_for_equivalence(seen(0.1, of_seeds=0.01**2), 0.0, 0.02, 0.95) is None
    assert prompts_for_equivalence(seen(0.1, of_seeds=0.001**2), 0.0, 0.02, 0.95) > prompts_for_equivalence(
        seen(0.1), 0.0, 0.02, 0.95
    )
    assert prompts_for_equivalence(seen(0.0), 0.0, 0.02, 0.95) == 2


def scores_of_seeds(prompts: int, between_seeds: tuple[float, ...], spread: float) -> pd.DataFrame:
    """Arm a, trained with several seeds that differ by so much, against b; prompts differ by `spread`."""
    rng, rows = np.random.default_rng(1), []
    for prompt in range(prompts):
        rows.append(("b", prompt, 0, "", 0.0))
        rows += [("a", prompt, 0, str(i), 0.05 + seed + rng.normal(0, spread)) for i, seed in enumerate(between_seeds)]
    table = pd.DataFrame(rows, columns=["arm", "prompt_index", "seed", "training_seed", "value"])
    return table.assign(metric="m", direction="higher", family="detail", status="scored", reason="")


def test_no_number_of_prompts_makes_up_for_training_seeds_that_disagree() -> None:
    apart = paired_difference(scores_of_seeds(64, (-0.2, 0.0, 0.2), 0.1), "a", "b", "m")
    assert apart.low < 0 < apart.high and prompts_needed(apart, apart.mean, 0.95) is None
    alike = paired_difference(scores_of_seeds(64, (0.0, 0.0, 0.0), 0.3), "a", "b", "m")
    alone = prompts_needed(seen(alike.spread), 0.1, 0.95)
    assert apart.of_seeds == pytest.approx(0.04 / 3, rel=0.25) and alike.of_seeds < 0.002
    assert alone <= prompts_needed(alike, 0.1, 0.95) < 6 * alone


def test_before_anything_is_seen_it_goes_by_what_the_spread_may_be() -> None:
    """(1.96 + 0.84)² (3 / 0.8)²; and so many prompts tell that effect, in spreads."""
    assert prompts_by_spread(0.8, (2.0, 3.0), 0.95) == {2.0: 50, 3.0: 111}
    assert least_told(111, 0.95) * 3.0 <= 0.8 < least_told(110, 0.95) * 3.0
