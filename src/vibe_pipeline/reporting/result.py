"""A run's result in short: which measures are read first."""

from collections import Counter
from collections.abc import Sequence

import pandas as pd

from vibe_pipeline.experiment.claims import Claim
from vibe_pipeline.reporting.tables import metric_order

MEASURES = 3


def to_read_first(scored: pd.DataFrame, claims: Sequence[Claim]) -> list[str]:
    """The measures that most claims are decided by, of those that were scored; then in the table's order."""
    if scored.empty:
        return []
    there = list(metric_order(scored))
    decides = Counter(claim.primary.metric for claim in claims)
    named = Counter(asked.metric for claim in claims for asked in claim.secondary)
    return sorted(there, key=lambda metric: (-decides[metric], -named[metric], there.index(metric)))[:MEASURES]
