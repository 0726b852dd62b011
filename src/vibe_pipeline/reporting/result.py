"""A run's result in short: which measures are read first."""

from collections import Counter
from collections.abc import Sequence

import pandas as pd

from vibe_pipeline.experiment.claims import Claim
from vibe_pipeline.reporting.tables import metric_order

MEASURES = 3


def to_read_first(scored: pd.DataFrame, claims: Sequence[Claim]) -> list[str]:
    """The measures that most claims rest on, of those that were scored; then in the table's order."""
    if scored.empty:
        return []
    there = list(metric_order(scored))
    rest_on = Counter(metric for claim in claims for metric in claim.metrics)
    return sorted(there, key=lambda metric: (-rest_on[metric], there.index(metric)))[:MEASURES]
