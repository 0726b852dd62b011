"""A page says which of its parts an earlier run made."""

import os
from pathlib import Path

import pandas as pd

from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.io.keys import set_key
from vibe_pipeline.io.manifests import AdapterManifest
from vibe_pipeline.reporting.ages import ages, older_parts

ARMS = {"full": ArmParams(label="Full", adapter="full"), "upsample": ArmParams(label="Upsampled", method="upsample")}

SCORED = {"scored": 2100.0}


def made(folder: Path, **times: float) -> pd.DataFrame:
    """A clip of each arm, made at that second."""
    rows = []
    for arm, at in times.items():
        path = folder / f"{arm}.mp4"
        path.touch()
        os.utime(path, (at, at))
        rows.append({"arm": arm, "path": str(path), "key": f"{arm} at {at}"})
    return pd.DataFrame(rows)


def test_only_what_an_earlier_run_made_is_called_older(tmp_path: Path) -> None:
    clips = made(tmp_path, full=2000.0, upsample=500.0)
    weights = tmp_path / "full.safetensors"
    weights.touch()
    os.utime(weights, (400, 400))
    adapter = AdapterManifest(name="full", key="k", path=weights)
    parts = ages(clips, ARMS, [adapter], SCORED, begun=1000.0)
    assert {p.part: p.when for p in parts} == {
        "Adapter full": "an earlier run", "Clips of Upsampled": "an earlier run", "Clips of Full": "this run",
        "Scores": "this run",
    }  # fmt: skip
    said = older_parts(parts)
    assert said == "From earlier runs (1970-01-01 00:06 to 1970-01-01 00:08 UTC): all 1 adapters, 1 of 2 arms' clips."


def test_a_run_that_made_all_says_nothing_and_one_without_a_known_start_neither(tmp_path: Path) -> None:
    clips = made(tmp_path, full=2000.0, upsample=2000.0)
    assert older_parts(ages(clips, ARMS, [], SCORED, begun=1000.0)) == ""
    parts = ages(clips, ARMS, [], SCORED, begun=None)
    assert older_parts(parts) == "" and {p.when for p in parts} == {"not recorded"}


def test_scores_of_other_clips_than_are_shown_are_said_first(tmp_path: Path) -> None:
    """`--pipelines=generation`, then `--pipelines=ablation_report`: clips were made again, scores were not."""
    clips = made(tmp_path, full=2000.0, upsample=2000.0)
    said = older_parts(ages(clips, ARMS, [], {"scored": 1500.0}, begun=1000.0))
    assert said.startswith("The scores are older than the clips")


def test_what_was_scored_counts_and_not_the_time_where_it_is_known(tmp_path: Path) -> None:
    """A project that was copied without its files' times has clips that are younger than their scores."""
    clips = made(tmp_path, full=2000.0, upsample=2000.0)
    known = {"scored": 1500.0, "scored_clips": set_key(clips["key"])}
    assert older_parts(ages(clips, ARMS, [], known, begun=1000.0)) == ""
    assert "older than the clips" in older_parts(ages(clips.head(1), ARMS, [], known, begun=1000.0))
