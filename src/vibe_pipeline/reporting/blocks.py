"""The ablation table shaped for people: blocks of metrics, rows of arms, cells that say what they lack."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from vibe_pipeline.evaluation.bootstrap import DEFAULT_BOOTSTRAP, Bootstrap
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.reporting.copies import Grid
from vibe_pipeline.reporting.glossary import ARROWS, DIRECTION_WORDS, family_words, number, spread, words
from vibe_pipeline.reporting.tables import (
    against_reference,
    arm_label,
    arm_order,
    best_arms,
    bound_of,
    is_scored,
    metric_order,
    text,
    training_seeds,
)


@dataclass(frozen=True)
class Cell:
    """One arm's score on one metric; `against` compares it with the reference arm where that is clear."""

    mean: str = ""
    value: float = math.nan
    half_width: str = ""
    n: int = 0
    best: bool = False
    against: str = ""
    status: str = "absent"
    reason: str = ""
    title: str = ""
    low: float = math.nan
    high: float = math.nan

    @property
    def numbers(self) -> Mapping[str, object]:
        """Its figures by name, empty where there is no score."""
        given = {"mean": self.value, "low": self.low, "high": self.high}
        return {name: "" if value != value else value for name, value in given.items()} | {"n": self.n or ""}


@dataclass(frozen=True)
class Column:
    """One metric: its label, explanation and better side."""

    metric: str
    label: str
    explanation: str
    arrow: str
    direction: str


@dataclass(frozen=True)
class ArmRow:
    """One arm's cells, in the order of the block's columns."""

    arm: str
    label: str
    cells: tuple[Cell, ...]
    is_reference: bool = False
    is_bound: bool = False
    training_seeds: int = 1


@dataclass(frozen=True)
class Block:
    """The metrics of one family; `unscored` holds the labels of those that no arm was scored on."""

    family: str
    title: str
    note: str
    columns: tuple[Column, ...]
    rows: tuple[ArmRow, ...]
    n: str
    unscored: tuple[str, ...] = ()

    @property
    def copies(self) -> dict[str, str]:
        """The table as text, by the name of the format; every figure of a cell by itself in CSV."""
        head = ("Arm", *(f"{c.label} {c.arrow}".strip() for c in self.columns))
        lines = tuple((row.label, *map(_cell_text, row.cells)) for row in self.rows)
        numbers = tuple({"arm": row.arm, "label": row.label} | self._numbers(row) for row in self.rows)
        return Grid(head, lines, numbers).copies()

    def _numbers(self, row: ArmRow) -> dict[str, object]:
        cells = zip(self.columns, row.cells, strict=True)
        return {f"{c.metric} {name}": value for c, cell in cells for name, value in cell.numbers.items()}


def _cell(row: pd.Series | None, best: bool, is_reference: bool) -> Cell:
    if row is None:
        return Cell(reason="no row for this arm and metric")
    if row["status"] != "scored" or not np.isfinite(row["mean"]):
        status = row["status"] if row["status"] in ("skipped", "failed") else "missing"
        return Cell(status=status, reason=text(row.get("reason")) or "no reason given")
    half = (row["ci_high"] - row["ci_low"]) / 2
    title = f"{number(row['mean'])}, interval {number(row['ci_low'])} to {number(row['ci_high'])}"
    if not is_reference and row.get("diff", math.nan) == row.get("diff", math.nan):
        title += f"; to the reference {number(row['diff'])} [{number(row['diff_low'])}, {number(row['diff_high'])}]"
        effect = row.get("effect_size", math.nan)
        title += f", effect size {number(effect)}" if effect == effect else ""
    return Cell(
        mean=number(row["mean"]),
        value=float(row["mean"]),
        half_width=spread(half, row["mean"]) if half == half else "",
        n=int(row["n"]) if row["n"] == row["n"] else 0,
        best=best,
        reason=text(row.get("reason")),
        against="" if is_reference else against_reference(row),
        status="scored",
        title=title,
        low=float(row["ci_low"]),
        high=float(row["ci_high"]),
    )


def _cell_text(cell: Cell) -> str:
    if cell.status != "scored":
        return cell.status
    return f"{cell.mean} ± {cell.half_width}" if cell.half_width else cell.mean


def _column(metric: str, direction: str) -> Column:
    known = words(metric)
    return Column(
        metric, known.label, known.explanation, ARROWS.get(direction, ""), DIRECTION_WORDS.get(direction, direction)
    )


def ablation_blocks(
    table: pd.DataFrame,
    scores: pd.DataFrame,
    arms: Mapping[str, ArmParams],
    references: Collection[str],
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
) -> list[Block]:
    """The ablation table as one block a family; a metric no arm was scored on is listed with its reason."""
    if table.empty:
        return []
    best = best_arms(table, scores, arms, bootstrap)
    families = dict.fromkeys(_family(table, metric) for metric in metric_order(table))
    return [_block(table[table["family"] == family], family, best, arms, references) for family in families]


def _family(table: pd.DataFrame, metric: str) -> str:
    return str(table.loc[table["metric"] == metric, "family"].iloc[0])


def _block(
    table: pd.DataFrame,
    family: str,
    best: Mapping[str, str],
    arms: Mapping[str, ArmParams],
    references: Collection[str],
) -> Block:
    scored = set(table.loc[is_scored(table), "metric"])
    metrics = metric_order(table)
    shown = [m for m in metrics if m in scored]
    order = arm_order(table["arm"].unique().tolist(), arms)
    lookup = {(row["arm"], row["metric"]): row for _, row in table.iterrows()}
    directions = table.drop_duplicates("metric").set_index("metric")["direction"]
    rows = tuple(
        ArmRow(
            arm=arm,
            label=arm_label(arm, arms),
            cells=tuple(_cell(lookup.get((arm, m)), best.get(m) == arm, arm in references) for m in shown),
            is_reference=arm in references,
            is_bound=bound_of(arm, arms) is not None,
            training_seeds=training_seeds(table, arm),
        )
        for arm in order
    )
    counts = sorted({c.n for r in rows for c in r.cells if c.status == "scored"})
    n = "" if not counts else f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"
    unscored = tuple(words(m).label for m in metrics if m not in scored)
    columns = tuple(_column(m, str(directions[m])) for m in shown)
    return Block(family, *family_words(family), columns, rows if shown else (), n, unscored)
