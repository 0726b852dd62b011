"""What others report, as the page reads it: columns of their tables, differences of rows that ours stand beside."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PaperColumn:
    """A published column: its name in the file, its label, and our metric of the same definition, '' for none."""

    name: str
    label: str
    metric: str


def published_difference(published: Mapping[str, Any], arm: str, other: str) -> dict[str, float]:
    """What is published for the difference of two of our arms, in points, by the label of a column.

    Only columns that both arms' rows have; rows are of one table, and the first row of an arm counts.
    """
    return {column.label: gain for column, gain in _differences(published, arm, other)}


def published_gain(published: Mapping[str, Any], arm: str, other: str, metric: str) -> float:
    """The published difference of two of our arms in the column that our metric stands for, in points; NaN: none."""
    found = (gain for column, gain in _differences(published, arm, other) if column.metric == metric)
    return next(found, math.nan)


def _differences(published: Mapping[str, Any], arm: str, other: str) -> list[tuple[PaperColumn, float]]:
    known: Mapping[str, Any] = published.get("columns", {})
    none: Mapping[str, Any] = {}
    found: dict[PaperColumn, float] = {}
    for part in published.get("tables", []):
        mine, theirs = (
            next((row.get("values", {}) for row in part.get("rows", []) if name in row.get("arms", [])), none)
            for name in (arm, other)
        )
        for column in columns_of(part, known):
            if mine.get(column.name) is not None and theirs.get(column.name) is not None:
                found.setdefault(column, mine[column.name] - theirs[column.name])
    return list(found.items())


def columns_of(part: Mapping[str, Any], known: Mapping[str, Any]) -> tuple[PaperColumn, ...]:
    """The columns of a published table; `known` is what the file says of all of them."""
    told = {name: known.get(name, {}) for name in part.get("columns", list(known))}
    return tuple(PaperColumn(name, said.get("label", name), said.get("metric") or "") for name, said in told.items())
