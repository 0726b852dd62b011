"""P-values of a family of tests, corrected for how many there are."""

import math
from collections.abc import Sequence


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's corrected p-values: with those below α taken as told, the chance of any false one is at most α.

    The smallest is multiplied by how many there are, the next by one less, and none falls below one before it. NaN is
    not part of the family and stays.

    Source: Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6 (1979), 65.
    """
    order = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    corrected, least = list(p_values), 0.0
    for rank, (p, place) in enumerate(order):
        least = max(least, min(1.0, (len(order) - rank) * p))
        corrected[place] = least
    return corrected
