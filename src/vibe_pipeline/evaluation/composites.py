"""Scores that are made of other scores: averages over dimensions of a clip, VBench's totals of an arm.

What lacks a part has no score, and its reason names what is missing: counting it as 0, as VBench's own script does, or
leaving it out would give a figure that compares with nothing.
"""

from collections.abc import Collection, Iterator, Sequence

import pandas as pd

from vibe_pipeline.evaluation.metrics.averages import AVERAGES, Average
from vibe_pipeline.io.score_table import WHOLE_ARM, Place, score_row, score_table
from vibe_pipeline.vbench.dimensions import REGISTRY, TOTALS, canonical_name
from vibe_pipeline.vbench.totals import DIMENSIONS, PARTS, vbench_totals

Row = dict[str, object]
_CLIP = ["prompt_index", "seed"]


def composite_scores(vbench_scores: pd.DataFrame, overall: Sequence[str]) -> pd.DataFrame:
    """Averages of every clip and totals of every arm.

    Args:
        vbench_scores: VBench's own (see `vbench.score.score_vbench`).
        overall: The dimensions of `overall6`, names out of VBench's 16.

    Returns:
        A score table (see `io.score_table`). An average has a row a clip that VBench scored, a total one row an arm, of
        prompt_index and seed -1; so has an average of which a dimension has no score in the whole arm.
    """
    overall = [canonical_name(name) for name in overall]
    rows: list[Row] = []
    for arm, own in vbench_scores.groupby("arm", sort=False):
        for average in AVERAGES:
            rows += _averaged(str(arm), own, average, overall)
        rows += _totalled(str(arm), own)
    return score_table(rows)


def _averaged(arm: str, own: pd.DataFrame, average: Average, overall: Sequence[str]) -> Iterator[Row]:
    """An average's rows of one arm."""
    try:
        names = average.dimensions(overall)
    except ValueError as error:
        yield score_row(Place(arm), average, status="skipped", reason=str(error))
        return
    parts = own[own["metric"].isin(names)]
    scored = parts[parts["status"] == "scored"]
    if lacking := [name for name in names if name not in set(scored["metric"])]:
        yield score_row(Place(arm), average, status="skipped", reason=_without(lacking, set(parts["metric"])))
        return
    by_clip = scored.set_index([*_CLIP, "metric"])["value"].unstack("metric")[list(names)]
    places = parts.loc[parts["prompt_index"] != WHOLE_ARM, _CLIP].drop_duplicates()
    for (prompt, seed), values in by_clip.reindex(pd.MultiIndex.from_frame(places)).iterrows():
        place = Place(arm, prompt, seed)
        if values.isna().any():
            reason = f"no score on this clip of {', '.join(values.index[values.isna()])}"
            yield score_row(place, average, status="skipped", reason=reason)
        else:
            yield score_row(place, average, float(values.mean()))


def _totalled(arm: str, own: pd.DataFrame) -> Iterator[Row]:
    """VBench's totals of one arm: of each dimension's mean over its clips, as VBench takes it."""
    rows = own[own["metric"].isin(DIMENSIONS)]
    scored = rows[rows["status"] == "scored"]
    means = scored.groupby("metric")["value"].mean().to_dict()
    try:
        totals, wrong = vbench_totals(means), ""
    except ValueError as error:  # a score that no dimension can have: said where the total would stand
        totals, wrong = vbench_totals({}), str(error)
    for entry in TOTALS:
        value, needed = totals.of(entry.name), PARTS[entry.name]
        if value is None:
            lacking = [name for name in totals.missing if name in needed]
            status, reason = ("failed", wrong) if wrong else ("skipped", _without(lacking, set(rows["metric"])))
            yield score_row(Place(arm), entry, status=status, reason=reason)
        else:
            yield score_row(Place(arm), entry, value, reason=_in_part(rows[rows["metric"].isin(needed)]))


def _without(lacking: Sequence[str], asked: set[str]) -> str:
    """Why there is nothing: which dimensions have no score, and which of them were not asked for."""
    said = []
    if unscored := [name for name in lacking if name in asked]:
        said.append(f"no score of {', '.join(unscored)}, for the reason given there")
    if unasked := [name for name in lacking if name not in asked]:
        said.append(f"evaluation.vbench_dimensions does not ask for {', '.join(unasked)}")
    return "; ".join(said)


def _in_part(rows: pd.DataFrame) -> str:
    """Of which dimensions clips were left out; empty where none was."""
    counts = rows.assign(left=rows["status"] != "scored").groupby("metric", sort=False)["left"].agg(["sum", "count"])
    return "; ".join(f"{name}: {n} of {of} clips left out" for name, (n, of) in counts.iterrows() if n)


def missing_parts(metric: str, there: Collection[str], overall: Sequence[str]) -> list[str]:
    """Dimensions that a metric is made of and that are not there; itself, if it is a dimension.

    Args:
        metric: Any metric's name.
        there: The dimensions that are asked for, or that can be scored.
        overall: `evaluation.overall_dimensions`.
    """
    parts: Sequence[str] = ()
    if metric in REGISTRY:
        parts = (metric,)
    elif metric in PARTS:
        parts = PARTS[metric]
    elif average := next((entry for entry in AVERAGES if entry.name == metric), None):
        parts = average.dimensions(overall)
    return [name for name in parts if name not in there]
