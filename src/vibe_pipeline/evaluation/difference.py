"""The difference of two arms on one metric, as every part that judges or prints it takes it."""

import math
from dataclasses import dataclass


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
    note: str = ""

    @property
    def has_interval(self) -> bool:
        """Whether anything could be resampled."""
        return not math.isnan(self.low)
