"""Score tables kept by what determines them, so that a run with nothing changed measures nothing again."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd

from vibe_pipeline.io.files import write_atomic

log = logging.getLogger(__name__)

MEASURES_VERSION = 3
"""Raised whenever a measure changes what it computes: part of every key."""


def remembered(folder: Path, key: str, compute: Callable[[], dict[str, pd.DataFrame]]) -> dict[str, pd.DataFrame]:
    """The tables stored under `key`, or computed and stored now; a damaged file is computed again.

    Args:
        folder: Holds one `<key>.<table>.parquet` per table, and `<key>.names`, written last.
        key: What determines the tables.
        compute: Makes them, by name.
    """
    names = folder / f"{key}.names"
    if names.exists():
        try:
            listed = names.read_text().split()
            if not listed:
                raise ValueError("it names no table")
            return {name: pd.read_parquet(folder / f"{key}.{name}.parquet") for name in listed}
        except (OSError, ValueError) as error:
            log.warning("%s is damaged (%s) and will be computed again", names, error)
    tables = compute()
    for name, table in tables.items():
        write_atomic(folder / f"{key}.{name}.parquet", partial(table.to_parquet, index=False))
    write_atomic(names, lambda p: p.write_text("\n".join(tables)))
    return tables
