"""How many prompts would decide what these could not: the sample size of a paired comparison."""

import bisect
import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import NormalDist

from vibe_pipeline.evaluation.differences import Difference

POWER = 0.8
"""Chance that a run of that many prompts decides, if the difference is truly as large as assumed."""


def prompts_needed(found: Difference, effect: float, confidence: float, power: float = POWER) -> int | None:
    """Prompts at which the interval of a difference excludes 0 with a chance of `power`.

    The mean over N prompts has the variance V / N + seeds, where V is the variance over prompts and `seeds` is what
    training seeds add, which no prompt takes away. The interval excludes 0 with that chance where
    effect = (z_(1 - (1 - confidence) / 2) + z_power) · sqrt(V / N + seeds).

    Args:
        found: The difference that was seen, with its spread over prompts.
        effect: What is to be told from 0: the difference assumed to be true.
        confidence: Of the interval.
        power: Between 0 and 1.

    Returns:
        A whole number; None if no number would do: there is no spread to go by, no effect, or the training seeds alone
        differ by too much.

    Source: the normal approximation of a paired comparison (Chow et al., Sample Size Calculations in Clinical Research,
    chapter 3).
    """
    normal = NormalDist()
    at_ends = normal.inv_cdf(1 - (1 - confidence) / 2)
    if not (math.isfinite(found.spread) and math.isfinite(effect)) or effect == 0:
        return None
    left = (abs(effect) / (at_ends + normal.inv_cdf(power))) ** 2 - found.of_seeds
    return max(2, math.ceil(_over_prompts(found, at_ends) / left)) if left > 0 else None


def least_told(prompts: int, confidence: float, power: float = POWER) -> float:
    """The smallest true difference, in standard deviations over prompts, that so many prompts tell with that chance."""
    normal = NormalDist()
    return (normal.inv_cdf(1 - (1 - confidence) / 2) + normal.inv_cdf(power)) / math.sqrt(prompts)


def prompts_by_spread(effect: float, spreads: Sequence[float], confidence: float) -> dict[float, int]:
    """Prompts that tell a difference, where nobody has seen its spread over prompts yet: by what that may be."""
    unseen = Difference(
        mean=effect, low=math.nan, high=math.nan, clips=0, prompts=0, effect_size=math.nan, training_seeds=1
    )
    needed = {spread: prompts_needed(replace(unseen, spread=spread), effect, confidence) for spread in spreads}
    return {spread: prompts for spread, prompts in needed.items() if prompts is not None}


def prompts_for_equivalence(
    found: Difference, gain: float, margin: float, confidence: float, power: float = POWER
) -> int | None:
    """Prompts at which the interval of a difference lies within the margin with a chance of `power`.

    With a standard error of s = sqrt(V / N + seeds), as for :func:`prompts_needed`, and z its normal quantile at the
    interval's ends, that chance is Φ((margin − gain) / s − z) + Φ((margin + gain) / s − z) − 1.

    Args:
        found: The difference that was seen, with its spread over prompts.
        gain: The difference assumed to be true, within the margin.
        margin: Above 0.
        confidence: Of the interval.
        power: Between 0 and 1.

    Returns:
        A whole number; None if no number would do: no spread to go by, or the training seeds alone differ by too much.

    Source: Phillips, "Power of the two one-sided tests procedure", J. Pharmacokin. Biopharm. 18 (1990), by the normal
    approximation.
    """
    normal = NormalDist()
    at_ends = normal.inv_cdf(1 - (1 - confidence) / 2)
    if not math.isfinite(found.spread) or not abs(gain) < margin:
        return None
    variance = _over_prompts(found, at_ends)

    def chance(prompts: float) -> float:
        error = math.sqrt(variance / prompts + found.of_seeds)
        if error == 0:
            return 1.0
        return sum(normal.cdf((margin + side * gain) / error - at_ends) for side in (-1, 1)) - 1

    if chance(math.inf) < power:
        return None
    enough = 2
    while chance(enough) < power:
        enough *= 2
    return bisect.bisect_left(range(enough), power, lo=min(2, enough), key=chance)


def _over_prompts(found: Difference, at_ends: float) -> float:
    """V: the variance over prompts; with several training seeds what the interval seen is as wide as, if that is more.

    Resampling prompts and seeds crosswise counts what is particular to a clip more than once, so such an interval is
    wider than the spread over prompts alone says.
    """
    if found.training_seeds < 2:
        return found.spread**2
    whole = ((found.high - found.low) / (2 * at_ends)) ** 2
    return max(found.spread**2, found.prompts * (whole - found.of_seeds))
