"""The ablation table shaped for people: blocks of metrics, rows of arms, cells that say what they lack."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from vibe_pipeline.evaluation.bootstrap import DEFAULT_BOOTSTRAP, Bootstrap
from vibe_pipeline.evaluation.metrics.registry import FAMILIES
from vibe_pipeline.evaluation.readings import HOLDS, Question, compare_on_metric
from vibe_pipeline.evaluation.statistics import LEFT_OUT
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.generation.methods import Bound, method_of
from vibe_pipeline.reporting.copies import Grid
from vibe_pipeline.reporting.glossary import ARROWS, DIRECTION_WORDS, family_words, number, spread, words


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


def arm_label(arm: str, arms: Mapping[str, ArmParams]) -> str:
    """What the report calls an arm."""
    return arms[arm].label if arm in arms else arm


def arm_settings(arm: str, arms: Mapping[str, ArmParams]) -> str:
    """One line on what an arm runs."""
    return method_of(arms[arm]).describe(arms[arm]) if arm in arms else ""


def bound_of(arm: str, arms: Mapping[str, ArmParams]) -> Bound | None:
    """Whether an arm bounds what a model can do, from below (`floor`) or above (`ceiling`); None: a contestant."""
    return method_of(arms[arm]).bound if arm in arms else None


def arm_order(present: list[str], arms: Mapping[str, ArmParams]) -> list[str]:
    """Arms as declared, with plain upsampling first and the truth last; undeclared ones before the truth."""
    declared = [a for a in arms if a in present] + sorted(a for a in present if a not in arms)

    places = {"floor": 0, None: 1, "ceiling": 2}
    return sorted(dict.fromkeys(declared), key=lambda arm: places[bound_of(arm, arms)])


def arms_run(table: pd.DataFrame, arms: Mapping[str, ArmParams], differs: Mapping[str, str]) -> list[tuple[str, str]]:
    """Label and settings of each arm of the table, and how its clips differ from the target's scale, where they do."""
    present = [] if table.empty else table["arm"].unique().tolist()
    trained = {a: n for a in present if (n := training_seeds(table, a)) > 1}
    pooled = {a: f" · the first of {n} trainings that are pooled" for a, n in trained.items()}
    said = {
        a: arm_settings(a, arms) + pooled.get(a, "") + (f" · {differs[a]}" if a in differs else "") for a in present
    }
    return [(arm_label(a, arms), said[a]) for a in arm_order(present, arms)]


def training_seeds(table: pd.DataFrame, arm: str) -> int:
    """With how many seeds an arm of the table was trained."""
    return int(table.loc[table["arm"] == arm, "training_seeds"].max()) if "training_seeds" in table else 1


def metric_order(table: pd.DataFrame) -> list[str]:
    """Metrics by family, then as the table first names them."""
    if table.empty:
        return []
    found = table.drop_duplicates("metric")
    rank = {family: i for i, family in enumerate(FAMILIES)}
    keyed = [
        (rank.get(f, len(rank)), i, m) for i, (m, f) in enumerate(zip(found["metric"], found["family"], strict=True))
    ]
    return [metric for _, _, metric in sorted(keyed)]


def is_scored(table: pd.DataFrame) -> pd.Series:
    """Which rows hold a finite mean."""
    return (table["status"] == "scored") & np.isfinite(pd.to_numeric(table["mean"], errors="coerce"))


def best_arms(
    table: pd.DataFrame, scores: pd.DataFrame, arms: Mapping[str, ArmParams], bootstrap: Bootstrap = DEFAULT_BOOTSTRAP
) -> dict[str, str]:
    """Per metric the best arm that runs the model, if its paired difference to the runner-up excludes 0.

    Plain upsampling and the true render are bounds, not contestants. Metrics without a clear winner,
    a better side or per-clip scores are left out.
    """
    best: dict[str, str] = {}
    if table.empty or scores.empty:
        return best
    bounds = [a for a in arms if bound_of(a, arms)]
    rows = table[is_scored(table) & ~table["arm"].isin(bounds) & table["direction"].isin(["higher", "lower"])]
    for metric, group in rows.groupby("metric", sort=False):
        direction = group["direction"].iloc[0]
        ranked = group.sort_values("mean", ascending=direction == "lower")["arm"].tolist()
        if len(ranked) > 1:
            evidence = compare_on_metric(scores, ranked[0], ranked[1], Question(str(metric), direction), bootstrap)
            if evidence.verdict == HOLDS:
                best[str(metric)] = ranked[0]
    return best


def against_reference(row: pd.Series) -> str:
    """'better' or 'worse' than the reference arm where the difference's interval excludes 0, else ''."""
    low, high = row.get("diff_low", math.nan), row.get("diff_high", math.nan)
    if row["direction"] not in ("higher", "lower") or not (low > 0 or high < 0):
        return ""
    return "better" if (low > 0) == (row["direction"] == "higher") else "worse"


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


def text(value: object) -> str:
    """A cell's text; NaN and None are empty."""
    return "" if value is None or value != value else str(value).strip()


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


def missing(table: pd.DataFrame, arms: Mapping[str, ArmParams]) -> list[dict[str, str]]:
    """What was not scored, or only in part: metric, arms, status, reason; arms that share a reason share a line."""
    if table.empty:
        return []
    scored, total = is_scored(table), table["arm"].nunique()
    reasons = [text(r) for r in table["reason"]]
    partly = ["scored in part" if LEFT_OUT in reason else "scored, with a note" for reason in reasons]
    rows = table.assign(reason=reasons, status=table["status"].mask(scored, pd.Series(partly, table.index)))
    rows = rows[~scored | (rows["reason"] != "")]
    rows["reason"] = rows["reason"].replace("", "no reason given")
    lines, named = [], set()
    for (metric, status, reason), group in rows.groupby(["metric", "status", "reason"], sort=False):
        names = arm_order(group["arm"].unique().tolist(), arms)
        who = "all arms" if len(names) == total else ", ".join(arm_label(a, arms) for a in names)
        # The first line of a metric is where its cells in the tables lead to.
        line = {"id": "" if metric in named else str(metric), "metric": words(str(metric)).label, "arms": who}
        lines.append(line | {"status": str(status), "reason": str(reason)})
        named.add(metric)
    return lines


def reasons_not_run(table: pd.DataFrame) -> dict[str, str]:
    """Why arms of the table were not run, by name."""
    rows = table[table["status"] == "not run"] if "status" in table else table.head(0)
    return {str(row.arm): text(row.reason) for row in rows.drop_duplicates("arm").itertuples()} if len(rows) else {}


def unbeaten_upsampling(table: pd.DataFrame, arms: Mapping[str, ArmParams]) -> list[str]:
    """Labels of the metrics on which no arm that runs the model has a better mean than plain upsampling."""
    plain = [a for a in arms if bound_of(a, arms) == "floor"]
    bounds = [a for a in arms if bound_of(a, arms)]
    found = []
    for metric in metric_order(table):
        rows = table[(table["metric"] == metric) & is_scored(table)]
        rivals, ours = rows[~rows["arm"].isin(bounds)], rows[rows["arm"].isin(plain)]
        if rivals.empty or ours.empty or rows["direction"].iloc[0] not in ("higher", "lower"):
            continue
        sign = 1 if rows["direction"].iloc[0] == "higher" else -1
        if (sign * ours["mean"]).max() >= (sign * rivals["mean"]).max():
            found.append(words(metric).label)
    return found
