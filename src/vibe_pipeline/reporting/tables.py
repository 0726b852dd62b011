"""What the ablation table says: the order of arms and metrics, what is best, what is missing."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from vibe_pipeline.evaluation.bootstrap import DEFAULT_BOOTSTRAP, Bootstrap
from vibe_pipeline.evaluation.metrics.registry import FAMILIES
from vibe_pipeline.evaluation.readings import HOLDS, Question, compare_on_metric
from vibe_pipeline.evaluation.statistics import LEFT_OUT
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.generation.methods import Bound, method_of
from vibe_pipeline.reporting.glossary import words


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


def text(value: object) -> str:
    """A cell's text; NaN and None are empty."""
    return "" if value is None or value != value else str(value).strip()


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
