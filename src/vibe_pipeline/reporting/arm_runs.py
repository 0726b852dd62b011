"""What the runs of arms in MLflow hold, and the note on their parent by which they are found and compared."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import pandas as pd

from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.generation.methods import counting_settings
from vibe_pipeline.io.keys import content_key
from vibe_pipeline.io.manifests import AdapterManifest
from vibe_pipeline.reporting.arm_pictures import common_step, keep_clip, key_of, pages, places_of
from vibe_pipeline.reporting.glossary import ARROWS, number, words
from vibe_pipeline.reporting.narrative import differences
from vibe_pipeline.reporting.tables import is_scored
from vibe_pipeline.tracking import (
    CLIP,
    CONTENT,
    PLACE,
    WORKFLOW,
    Tracked,
    View,
    kept_view,
    model_of,
    parent_run,
    place_arms,
    prompts_input,
    same_arms,
    tracked_arm,
)

ASKED = ("prompts", "count", "seeds", "native_source")
"""Fields of `generation` that an arm's run repeats."""


@dataclass(frozen=True)
class ArmRecord:
    """What is known of an arm when it has been scored.

    Attributes:
        name: The row's.
        arm: The row.
        rows: Its own of the ablation table.
        clips: One row a clip: prompt_index, prompt, seed, path, preview_path, frames, seconds, key, differs.
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


@dataclass(frozen=True)
class Recorded:
    """The runs of arms.

    Attributes:
        records: Every arm.
        runs: Ids of their runs; '' of one that a server that went away did not take.
        earlier: They are an earlier run's: in this one nothing changed.
        kept: Clips that each keeps.
    """

    records: Sequence[ArmRecord]
    runs: Mapping[str, str]
    earlier: bool
    kept: int

    def links(self, run: Tracked, experiment: str) -> dict[str, str]:
        """Addresses that set the arms side by side, by what the description says of them."""
        ids = [found for found in self.runs.values() if found]
        if not ids:
            return {}
        charts = View(_those(ids), f"tags.`{PLACE}`", hidden=self._pictures())
        links = {"Compare these arms": compare_address(ids, experiment)}
        links |= {"their charts": kept_view(run, experiment, f"{run.run_id}-charts", charts)}
        arms = {record.name: record.arm for record in self.records if self.runs[record.name]}
        found = pages(arms) if self.kept else []
        for i, page in enumerate(found, 1):
            said = "their pictures side by side" if len(found) == 1 else f"pictures, {i} of {len(found)}"
            # The grid has the last run at the left.
            shown = View(
                _those(self.runs[arm] for arm in page),
                f"tags.`{PLACE}`",
                falls=True,
                pictures=self._pictures(),
                step=common_step(record.clips for record in self.records),
            )
            links[said] = kept_view(run, experiment, f"{run.run_id}-{i}", shown)
        return links

    def _pictures(self) -> list[str]:
        return [*dict.fromkeys(key_of(c) for r in self.records for c in r.clips.head(self.kept).itertuples())]


def log_arm_runs(records: Sequence[ArmRecord], generation: GenerationParams, kept: int) -> Recorded:
    """One run an arm; none where every arm is as an earlier run recorded it.

    Args:
        records: Every arm.
        generation: What they answer.
        kept: Clips that each run keeps.
    """
    contents = {record.name: record.content(generation, kept) for record in records}
    runs = earlier = same_arms(contents)
    if not earlier:
        runs = {record.name: _log_arm(record, generation, kept, contents[record.name]) for record in records}
    place_arms(runs, places_of({record.name: record.arm for record in records}))
    return Recorded(records, runs, earlier=bool(earlier), kept=kept)


def _log_arm(record: ArmRecord, generation: GenerationParams, kept: int, content: str) -> str:
    tags = record.tags() | {CONTENT: content}
    seconds = float(record.clips["seconds"].sum())
    with tracked_arm(record.name, record.settings(generation), tags, seconds) as run:
        run.reads(prompts_input(record.clips, str(generation.prompts)), model_of(tags.get("adapter_run_id", "")))
        run.log([record.metrics()])
        run.tags({f"missing.{r.metric}": r.reason for r in record.rows.itertuples() if r.status != "scored"})
        run.text(record.rows.to_csv(index=False), "scores.csv")
        for clip in record.clips.head(kept).itertuples():
            keep_clip(run, clip)
    return run.run_id


def note_on_arms(table: pd.DataFrame, metrics: Sequence[str], recorded: Recorded) -> None:
    """Describe the parent run by its result, with addresses that set its arms side by side.

    Args:
        table: Ablation table.
        metrics: Which of its measures are shown.
        recorded: The arms' runs.
    """
    parent = parent_run()
    info = parent.info()
    if info is None:
        return
    links = recorded.links(parent, info.experiment_id)
    # First, as MLflow folds what is long.
    blocks = [" · ".join(f"[{said}]({address})" for said, address in links.items())] if links else []
    blocks.append(result_table(table, metrics))
    if recorded.earlier:
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
    return f"#/compare-runs?{urlencode(chosen, quote_via=quote)}&{WORKFLOW}"


def _those(runs: Iterable[str]) -> str:
    """These runs, in MLflow's language."""
    return f"attributes.run_id IN ({', '.join(map(repr, runs))})"
