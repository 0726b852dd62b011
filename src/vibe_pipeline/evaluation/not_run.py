"""Arms that were not run, in the table beside those that were: never left out without a word, never 0."""

from collections.abc import Mapping

import pandas as pd


def with_not_run(summary: pd.DataFrame, reasons: Mapping[str, str]) -> pd.DataFrame:
    """A table of :func:`statistics.summarise` with arms that were not run: on every metric a row of status `not run`.

    Args:
        summary: As it is, where there are no such arms.
        reasons: Why, by the arm's name.
    """
    if not reasons:
        return summary
    known = ["metric", "direction", "family"]
    metrics = summary.drop_duplicates("metric")[known]
    empty = {"n": 0, "n_pairs": 0, "training_seeds": 0, "status": "not run"}
    rows = [metrics.assign(arm=arm, reason=reason, **empty) for arm, reason in reasons.items()]
    added = pd.concat(rows, ignore_index=True).reindex(columns=summary.columns).astype(summary.dtypes.to_dict())
    return pd.concat([summary, added], ignore_index=True)
