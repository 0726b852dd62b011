"""What the runs of arms in MLflow hold, and the note on their parent by which they are found and compared."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pandas as pd
from PIL import Image

from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.generation.methods import counting_settings
from vibe_pipeline.io.keys import content_key
from vibe_pipeline.io.manifests import AdapterManifest
from vibe_pipeline.reporting.glossary import ARROWS, number, words
from vibe_pipeline.reporting.media import some_frames
from vibe_pipeline.reporting.narrative import differences
from vibe_pipeline.reporting.tables import is_scored
from vibe_pipeline.tracking import (
    CLIP,
    CONTENT,
    Tracked,
    model_of,
    parent_run,
    prompts_input,
    same_arms,
    tracked_arm,
)

PICTURE = 1920
"""Longest side of a picture in MLflow, in pixels: a larger frame is shrunk."""

ASKED = ("prompts", "count", "seeds", "native_source")
"""Fields of `generation` that an arm's run repeats."""

TRAINING = "workflowType=machine_learning"
"""What makes MLflow show what belongs to trained models, and not to language models."""

SHARES = (0.0, 0.5, 1.0)
"""Where in a clip its pictures are taken, as shares of its length."""


@dataclass(frozen=True)
class ArmRecord:
    """What is known of an arm when it has been scored.

    Attributes:
        name: The row's.
        arm: The row.
        rows: Its own of the ablation table.
        clips: One row a clip: prompt_index, prompt, seed, path, preview_path, seconds, key, differs.
        adapter: Of the arm, if it has one.
    """

    name: str
    arm: ArmParams
    rows: pd.DataFrame
    clips: pd.DataFrame
    adapter: AdapterManifest | None = None

    def tags(self) -> dict[str, str]:
        """What its run can be found by."""
        tags = {"arm": self.name, "adapter": self.arm.adapter or "none"}
        if self.arm.family:
            tags["family"] = self.arm.family
        if self.arm.replicate:
            tags |= {"replicate_of": self.arm.replicate.of, "training_seed": self.arm.replicate.seed}
        if said := differences(self.clips).get(self.name):
            tags["differs"] = said
        if self.adapter is not None:
            tags |= {"adapter_run_id": self.adapter.run_id, "adapter_key": self.adapter.key}
        return tags

    def settings(self, generation: GenerationParams) -> dict[str, Any]:
        """What its method has read, what a sweep set, and what it answers, so that arms of other runs differ by it."""
        asked = {"generation": generation.model_dump(mode="json", include=set(ASKED))}
        return counting_settings(self.arm) | asked | ({"swept": self.arm.swept} if self.arm.swept else {})

    def content(self, generation: GenerationParams, kept: int) -> str:
        """A hash of all that its run would hold, with `kept` clips."""
        table = self.rows.to_csv(index=False)
        return content_key(self.settings(generation), sorted(self.clips["key"]), table, kept)

    def metrics(self) -> dict[str, float]:
        """Means of what was scored, in groups by family, and the cost of a clip."""
        scored = self.rows[is_scored(self.rows)]
        means = {f"{row.family}/{row.metric}": float(row.mean) for row in scored.itertuples()}
        return means | {CLIP: float(self.clips["seconds"].mean())}


def log_arm_runs(records: Sequence[ArmRecord], generation: GenerationParams, kept: int) -> tuple[dict[str, str], bool]:
    """One run an arm; none where every arm is as an earlier run recorded it.

    Args:
        records: Every arm.
        generation: What they answer.
        kept: Clips that each run keeps.

    Returns:
        Ids of the arms' runs, and whether they are an earlier run's.
    """
    contents = {record.name: record.content(generation, kept) for record in records}
    if earlier := same_arms(contents):
        return earlier, True
    return {record.name: _log_arm(record, generation, kept) for record in records}, False


def _log_arm(record: ArmRecord, generation: GenerationParams, kept: int) -> str:
    tags = record.tags() | {CONTENT: record.content(generation, kept)}
    seconds = float(record.clips["seconds"].sum())
    with tracked_arm(record.name, record.settings(generation), tags, seconds) as run:
        run.reads(prompts_input(record.clips, str(generation.prompts)), model_of(tags.get("adapter_run_id", "")))
        run.log([record.metrics()])
        run.tags({f"missing.{r.metric}": r.reason for r in record.rows.itertuples() if r.status != "scored"})
        run.text(record.rows.to_csv(index=False), "scores.csv")
        for clip in record.clips.head(kept).itertuples():
            _keep_clip(run, clip)
    return run.run_id


def _keep_clip(run: Tracked, clip: Any) -> None:
    """A clip to play, and pictures of it for the image grid, under names that every arm shares."""
    name = f"{clip.prompt_index:04d}-{clip.seed}"
    run.artifact(Path(clip.preview_path), "clips", f"{name}.mp4")
    if run.client is None:
        return
    chosen: list[int] = []

    def choose(count: int) -> list[int]:
        chosen[:] = sorted({round(share * (count - 1)) for share in SHARES})
        return chosen

    frames = some_frames(Path(clip.path), choose)
    for step, frame in zip(chosen, frames, strict=True):
        picture = Image.fromarray(frame)
        picture.thumbnail((PICTURE, PICTURE))
        run.picture(f"clips/{name} {clip.prompt}", picture, step)


def note_on_arms(table: pd.DataFrame, metrics: Sequence[str], runs: Mapping[str, str], earlier: bool) -> None:
    """Describe the parent run by its result, with addresses that set its arms side by side.

    Args:
        table: Ablation table.
        metrics: Which of its measures are shown.
        runs: Ids of the arms' runs; those of a server that went away are missing.
        earlier: They are another run's: in this one nothing changed.
    """
    parent, ids = parent_run(), [run for run in runs.values() if run]
    info = parent.info()
    if info is None:
        return
    blocks = [result_table(table, metrics)]
    if ids:  # first, as MLflow folds what is long
        links = {"Compare these arms": compare_address(ids, info.experiment_id)}
        links |= {"see their pictures and charts side by side": charts_address(ids, info.experiment_id, CLIP)}
        blocks.insert(0, " or ".join(f"[{said}]({address})" for said, address in links.items()) + ".")
    if earlier:
        blocks.append("Nothing changed: an earlier run recorded these arms, and this one has none of its own.")
    parent.describe("\n\n".join(blocks))


def several_have(table: pd.DataFrame) -> pd.DataFrame:
    """What was scored, of measures that more than one arm has: others compare nothing."""
    scored = table[is_scored(table)] if len(table) else table
    return scored[scored.groupby("metric")["arm"].transform("nunique") > 1] if len(scored) else scored


def result_table(table: pd.DataFrame, metrics: Sequence[str]) -> str:
    """Arms and some of their measures, in Markdown."""
    scored = table[is_scored(table)] if len(table) else table
    if scored.empty or not metrics:
        return "No arm was scored: the report says why."
    better = dict(zip(scored["metric"], scored["direction"], strict=True))
    heads = [f"{words(metric).label} {ARROWS.get(better.get(metric, 'none'), '')}".strip() for metric in metrics]
    means = {(row.arm, row.metric): number(float(row.mean)) for row in scored.itertuples()}
    rows = [[arm, *(means.get((arm, metric), "–") for metric in metrics)] for arm in table["arm"].unique()]
    lines = [["arm", *heads], ["---", *("---:" for _ in metrics)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def compare_address(runs: Iterable[str], experiment: str) -> str:
    """MLflow's page of several runs, relative to its server."""
    chosen = {"runs": json.dumps(list(runs)), "experiments": json.dumps([experiment])}
    return f"#/compare-runs?{urlencode(chosen, quote_via=quote)}&{TRAINING}"


def charts_address(runs: Iterable[str], experiment: str, metric: str) -> str:
    """MLflow's charts and image grid of these runs, relative to its server.

    Sorted by a metric: by their time, it would show them folded below their parent.
    """
    query = f"attributes.run_id IN ({', '.join(map(repr, runs))})"
    chosen = {"compareRunsMode": "CHART", "searchFilter": query, "orderByKey": f"metrics.`{metric}`"}
    return f"#/experiments/{experiment}/runs?{TRAINING}&{urlencode(chosen, quote_via=quote)}"
