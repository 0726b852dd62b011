"""The paper's tables with ours beside: published value, our value with its interval, difference, verdict."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pandas as pd

from vibe_pipeline.evaluation.bootstrap import DEFAULT_BOOTSTRAP, Bootstrap
from vibe_pipeline.evaluation.metrics.registry import METRICS
from vibe_pipeline.evaluation.readings import ABSENT, FAILS, HOLDS, NOT_RUN, Evidence, Question, compare_on_metric
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.reporting.copies import Grid
from vibe_pipeline.reporting.published import PaperColumn, columns_of
from vibe_pipeline.reporting.tables import arm_label, arm_order, is_scored, text
from vibe_pipeline.reporting.verdicts import KINDS, points_of, prompts_that_tell, signed


@dataclass(frozen=True)
class PaperCell:
    """One column of a row: the published value, and ours, both in percent; '' where there is none."""

    published: str = ""
    ours: str = ""
    half_width: str = ""
    lack: str = ""
    numbers: tuple[float, float, float, float] = (math.nan,) * 4


@dataclass(frozen=True)
class PaperRow:
    """One method: an arm of ours beside a published row, or either alone.

    `difference` is the first row's arm minus this one, in percentage points, with its interval.
    """

    method: str
    arm: str
    training_data: str
    fit: str
    cells: tuple[PaperCell, ...]
    published_difference: str = ""
    difference: str = ""
    interval: str = ""
    verdict: str = ""
    kind: str = "absent"
    reason: str = ""
    is_reference: bool = False
    numbers: tuple[float, float, float, float] = (math.nan,) * 4


@dataclass(frozen=True)
class PaperTable:
    """A published table with ours beside."""

    title: str
    columns: tuple[PaperColumn, ...]
    compared: str
    rows: tuple[PaperRow, ...]
    sources: tuple[str, ...]

    @property
    def copies(self) -> dict[str, str]:
        """The table as text, by format."""
        return self.grid().copies()

    def grid(self) -> Grid:
        """The table as plain text."""
        metrics = [f"{c.label}, {of}" for c in self.columns for of in ("published", "ours")]
        head = ("Method", "Our arm", *metrics, "Difference, published", "Difference, ours", "Verdict")
        return Grid(head, tuple(_line(row) for row in self.rows), tuple(self._figures(row) for row in self.rows))

    def _figures(self, row: PaperRow) -> dict[str, object]:
        """A row with every figure in a cell of its own, empty where there is none."""
        found: dict[str, object] = {"method": row.method, "arm": row.arm}
        places = (*((c.name, cell.numbers) for c, cell in zip(self.columns, row.cells, strict=True)),)
        for name, figures in (*places, ("difference", row.numbers)):
            keys = (f"{name}_published", name, f"{name}_low", f"{name}_high")
            found |= {key: "" if math.isnan(x) else round(x, 6) for key, x in zip(keys, figures, strict=True)}
        return found | {"verdict": row.verdict, "reason": row.reason}


@dataclass(frozen=True)
class Ours:
    """What the run has to set beside the paper.

    Attributes:
        table: The ablation table.
        scores: Per clip.
        arms: Declared arms by name, those that were not run among them.
        references: Each arm's own reference; the arm that stands for the paper's method.
        reference: Where an arm has none of its own.
        bootstrap: How intervals of differences are drawn.
    """

    table: pd.DataFrame
    scores: pd.DataFrame
    arms: Mapping[str, ArmParams]
    references: Mapping[str, str]
    reference: str
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP


def paper_tables(published: Mapping[str, Any], ours: Ours) -> list[PaperTable]:
    """Every published table; our arms that stand in none of them follow in the first."""
    parts = published.get("tables", [])
    known = published.get("columns", {})
    beside = {arm for part in parts for row in part.get("rows", []) for arm in row.get("arms", [])}
    others = [arm for arm in ours.arms if arm not in beside]
    return [_table(part, known, ours, () if i else others) for i, part in enumerate(parts)]


def _table(part: Mapping[str, Any], known: Mapping[str, Any], ours: Ours, others: Sequence[str]) -> PaperTable:
    columns, rows = columns_of(part, known), part.get("rows", [])
    none: Mapping[str, Any] = {}
    paper = next((row for row in rows if ours.reference in row.get("arms", [])), none)
    made = [_row(row, arm, columns, paper, ours) for row in rows for arm in _arms_of(row, ours)]
    made += [_row({}, arm, columns, paper, ours) for arm in arm_order(list(others), ours.arms)]
    given = (f"{r.get('source', 'no source')}; {r.get('reliability', '')}" for r in rows)
    compared = columns[-1].label if columns else ""
    return PaperTable(part.get("title", ""), columns, compared, tuple(made), tuple(dict.fromkeys(given)))


def _arms_of(row: Mapping[str, Any], ours: Ours) -> list[str]:
    """Our arms that stand beside a published row; one empty name where none does."""
    return [arm for arm in row.get("arms", []) if arm in ours.arms] or [""]


def _row(
    row: Mapping[str, Any], arm: str, columns: Sequence[PaperColumn], paper: Mapping[str, Any], ours: Ours
) -> PaperRow:
    values = row.get("values", {})
    own = ours.table[ours.table["arm"] == arm] if len(ours.table) else ours.table
    cells = tuple(_cell(values.get(c.name), own[own["metric"] == c.metric] if len(own) else own) for c in columns)
    made = PaperRow(
        method=row.get("method", "") or "ours alone",
        arm=arm_label(arm, ours.arms) if arm else "",
        training_data=row.get("training_data", ""),
        fit=row.get("fit", ""),
        cells=cells,
        is_reference=bool(arm) and arm in {ours.reference, *ours.references.values()},
    )
    if not columns or made.is_reference:
        return made
    gain = _less(paper.get("values", {}).get(columns[-1].name), values.get(columns[-1].name))
    return _judged(made, arm, columns[-1].metric, gain, own, ours)


def _judged(row: PaperRow, arm: str, metric: str, gain: float, own: pd.DataFrame, ours: Ours) -> PaperRow:
    """A row with both differences to the paper's method, and what ours says."""
    said = "" if math.isnan(gain) else signed(gain)
    if not arm or own.empty:
        why = "in this run no arm stands for it" if not arm else "not in this run"
        return _with(row, said, NOT_RUN, why, numbers=(gain, *row.numbers[1:]))
    left_out = own[own["status"] == "not run"]
    if len(left_out):
        return _with(row, said, NOT_RUN, text(left_out["reason"].iloc[0]), numbers=(gain, *row.numbers[1:]))
    if not metric:
        return _with(row, said, ABSENT, "no measure of ours is defined alike", numbers=(gain, *row.numbers[1:]))
    reference = ours.references.get(arm, ours.reference)
    falls = metric in METRICS and METRICS[metric].direction == "lower"
    better: Literal["higher", "lower"] = "lower" if falls else "higher"
    found = compare_on_metric(ours.scores, reference, arm, Question(metric, better), ours.bootstrap)
    scale = points_of(metric)
    figures = (gain, scale * found.difference, scale * found.low, scale * found.high)
    reason = "; ".join(filter(None, [found.reason, prompts_that_tell(found, ours.bootstrap, gain)]))
    return _with(row, said, _verdict(found, gain), reason, found, figures)


def _with(
    row: PaperRow, published: str, verdict: str, reason: str, found: Evidence | None = None,
    numbers: tuple[float, float, float, float] = (math.nan,) * 4,
) -> PaperRow:  # fmt: skip
    seen = found is not None and found.pairs
    return replace(
        row,
        numbers=numbers,
        published_difference=published,
        difference=signed(numbers[1], 2) if seen else "",
        interval=f"[{signed(numbers[2], 2)}, {signed(numbers[3], 2)}]" if seen else "",
        verdict=verdict,
        kind=KINDS[found.verdict] if found else "absent",
        reason=reason,
    )


def _verdict(found: Evidence, gain: float) -> str:
    """What our difference says, and whether the published one has the same side."""
    side = {HOLDS: 1, FAILS: -1}.get(found.verdict)
    if side is None:
        return found.verdict
    words = "the paper's method is better" if side > 0 else "the paper's method is worse"
    if math.isnan(gain) or gain == 0:
        return words
    published = gain if found.question.better == "higher" else -gain
    return f"{words}, {'as' if (published > 0) == (side > 0) else 'unlike'} published"


def _cell(published: float | None, rows: pd.DataFrame) -> PaperCell:
    given = math.nan if published is None else float(published)
    shown = "" if published is None else f"{published:.1f}"
    if rows.empty:
        return PaperCell(shown, lack="–", numbers=(given, *(math.nan,) * 3))
    row = rows.iloc[0]
    if not is_scored(rows).iloc[0]:
        lack = "not run" if row["status"] == "not run" else "not scored"
        return PaperCell(shown, lack=lack, numbers=(given, *(math.nan,) * 3))
    scale = points_of(str(row["metric"]))
    mean, low, high = (scale * float(row[name]) for name in ("mean", "ci_low", "ci_high"))
    half = "" if math.isnan(high - low) else f"{(high - low) / 2:.1f}"
    return PaperCell(shown, f"{mean:.1f}".replace("-", "−"), half, numbers=(given, mean, low, high))


def _less(minuend: float | None, subtrahend: float | None) -> float:
    return math.nan if minuend is None or subtrahend is None else minuend - subtrahend


def _line(row: PaperRow) -> tuple[str, ...]:
    """A row as texts."""
    cells = []
    for cell in row.cells:
        ours = f"{cell.ours} ± {cell.half_width}" if cell.half_width else cell.ours or cell.lack
        cells += [cell.published or "–", ours]
    difference = f"{row.difference} {row.interval}".strip() or "–"
    verdict = "reference" if row.is_reference else row.verdict
    return (row.method, row.arm or "none", *cells, row.published_difference or "–", difference, verdict)
