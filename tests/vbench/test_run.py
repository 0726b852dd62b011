"""Scoring resumes per clip and dimension, decodes once, runs in several processes, and shrinks for RAFT and AMT."""

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from vibe_pipeline.runtime.deadline import DEADLINE, OutOfTimeError
from vibe_pipeline.vbench import score as vbench
from vibe_pipeline.vbench.jobs import ScoringJob, Settings
from vibe_pipeline.vbench.kept_scores import ScoreStore
from vibe_pipeline.vbench.manifest import vbench_manifest
from vibe_pipeline.vbench.needs import flow_memory, seen_size
from vibe_pipeline.vbench.run import Scoring
from vibe_pipeline.vbench.score import score_vbench
from vibe_pipeline.vbench.worker import WorkerError, score_elsewhere

pytestmark = [
    pytest.mark.skipif(find_spec("vbench") is None, reason="vbench is not installed"),
    pytest.mark.filterwarnings("ignore"),
]
FLICKER, AESTHETIC, MOTION = "temporal_flickering", "aesthetic_quality", "motion_smoothness"


@pytest.fixture
def computed(monkeypatch):
    """(file, dimension) of every score that VBench really computes; `stop_at` interrupts there."""
    from vibe_pipeline.vbench.engine import Engine

    class Computed(list):
        stop_at = None

    calls, stock = Computed(), Engine.score

    def score(self, job, dimension):
        if len(calls) == calls.stop_at:
            raise KeyboardInterrupt
        calls.append((Path(job.path).name, dimension))
        return stock(self, job, dimension)

    monkeypatch.setattr(Engine, "score", score)
    return calls


def test_interrupted_and_resumed(clip_table, weights, computed, tmp_path):
    scoring = Scoring(weights, tmp_path)
    computed.stop_at = 5
    with pytest.raises(KeyboardInterrupt):
        score_vbench(clip_table, [FLICKER, AESTHETIC], scoring)
    computed.stop_at = None
    resumed = score_vbench(clip_table, [FLICKER, AESTHETIC], scoring)
    assert len(computed) == len(set(zip(clip_table["path"].index.repeat(2), computed, strict=True))) == 8
    straight = score_vbench(clip_table, [FLICKER, AESTHETIC], Scoring(weights, tmp_path / "straight"))
    pd.testing.assert_frame_equal(resumed, straight)


def test_spent_hours_keep_every_score(clip_table, weights, computed, tmp_path, monkeypatch):
    scoring = Scoring(weights, tmp_path)
    with monkeypatch.context() as patch:
        patch.setenv(DEADLINE, "0")
        with pytest.raises(OutOfTimeError, match="kept: 1 VBench scores"):
            score_vbench(clip_table, [FLICKER], scoring)
        with pytest.raises(OutOfTimeError, match=r"kept: [123] VBench scores"):
            score_vbench(clip_table, [FLICKER], Scoring(weights, tmp_path / "two", workers=2))
    assert len(computed) == 1
    table = score_vbench(clip_table, [FLICKER], scoring)
    assert len(computed) == 4 and set(table["status"]) == {"scored"}


def test_only_what_is_new_is_computed(clip_table, weights, computed, tmp_path):
    scoring = Scoring(weights, tmp_path)
    score_vbench(clip_table.head(2), [FLICKER], scoring)
    assert len(computed) == 2
    score_vbench(clip_table, [FLICKER], scoring)
    assert len(computed) == 4
    score_vbench(clip_table, [FLICKER, AESTHETIC], scoring)
    assert len(computed) == 8 and {name for _, name in computed[4:]} == {AESTHETIC}
    again = score_vbench(clip_table, [AESTHETIC, FLICKER], scoring)
    assert len(computed) == 8 and set(again["status"]) == {"scored"}
    # The same file under another prompt or arm name is the same clip only with the same prompt.
    score_vbench(clip_table.assign(arm=clip_table["arm"] + "_2"), [FLICKER], scoring)
    assert len(computed) == 8
    score_vbench(clip_table.head(1).assign(prompt="another"), [FLICKER], scoring)
    assert len(computed) == 9


def test_with_nothing_changed_one_file_is_opened(clip_table, tmp_path, computed, monkeypatch, caplog):
    scoring = Scoring(tmp_path / "cache", tmp_path)
    first = score_vbench(clip_table, [FLICKER], scoring)
    (table,) = (tmp_path / "tables").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(ScoreStore, "read", None)
        pd.testing.assert_frame_equal(score_vbench(clip_table, [FLICKER], scoring), first)
        renamed = score_vbench(clip_table.assign(arm="new_" + clip_table["arm"]), [FLICKER], scoring)
        assert renamed["value"].tolist() == first["value"].tolist()
    table.write_bytes(b"")
    pd.testing.assert_frame_equal(score_vbench(clip_table, [FLICKER], scoring), first)
    assert "is damaged" in caplog.text and len(computed) == 4


def test_a_table_with_a_gap_is_not_kept(clip_table, tmp_path, computed):
    truncated = clip_table.assign(frames=clip_table["frames"].where(clip_table.index > 0, 99))
    assert score_vbench(truncated, [FLICKER], Scoring(tmp_path / "cache", tmp_path))["status"].iloc[0] == "failed"
    assert not (tmp_path / "tables").exists()


def test_a_damaged_or_lost_file_of_scores_is_made_again(clip_table, tmp_path, computed):
    scoring = Scoring(tmp_path / "cache", tmp_path)
    first = score_vbench(clip_table, [FLICKER], scoring)
    shutil.rmtree(tmp_path / "tables")
    kept = sorted((tmp_path / "clips").iterdir())
    assert len(kept) == 4
    kept[0].write_bytes(b"")
    kept[1].unlink()
    pd.testing.assert_frame_equal(score_vbench(clip_table, [FLICKER], scoring), first)
    assert len(computed) == 6


def test_a_clip_is_decoded_once_by_each_reader(moving_clips, weights, standins, tmp_path):
    from vibe_pipeline.vbench.engine import open_engine

    names = (FLICKER, AESTHETIC, MOTION, "background_consistency", "subject_consistency", "overall_consistency")
    with open_engine(Settings(str(weights), str(tmp_path))) as engine, standins.shallow():
        for row in moving_clips.itertuples():
            job = ScoringJob(str(row.Index), row.path, row.prompt, names, row.frames, row.height, row.width)
            assert engine.broken(job) == ""
            for name in names:
                assert engine.score(job, name).error == ""
    assert engine.decoder.counts == {"decord": len(moving_clips), "opencv": len(moving_clips)}


def test_several_processes_give_the_same_table(clip_table, tmp_path):
    one = score_vbench(clip_table, [FLICKER], Scoring(tmp_path, tmp_path / "one"))
    two = score_vbench(clip_table, [FLICKER], Scoring(tmp_path, tmp_path / "two", workers=2, threads=1))
    pd.testing.assert_frame_equal(one, two)


def test_a_process_that_dies_says_why(clip_table, tmp_path):
    (tmp_path / "file").touch()
    settings = Settings(str(tmp_path), str(tmp_path / "file"))
    jobs = [ScoringJob("a", clip_table["path"].iloc[0], "a red circle", (FLICKER,), 9, 64, 64)]
    (result,) = score_elsewhere(Path(sys.executable), settings, jobs, 1)
    assert result.whole and result.error.startswith("failed, because VBench cannot be started: FileExistsError")
    dead = tmp_path / "python"
    dead.write_text("#!/bin/sh\necho killed by the system >&2\nexit 1\n")
    dead.chmod(0o755)
    with pytest.raises(WorkerError, match=r"ended with status 1 while scoring: killed by the system"):
        list(score_elsewhere(dead, settings, jobs, 1))


def test_flow_side_is_what_amt_sees(moving_clips, weights, write_clip, tmp_path):
    """Equal to scoring a clip that was shrunk beforehand, and nothing else changes."""
    clips = moving_clips.head(1)
    shrunk = score_vbench(clips, [MOTION, FLICKER], Scoring(weights, tmp_path / "a", flow_side=64)).set_index("metric")
    assert shrunk["seen"].to_dict() == {MOTION: "64x64", FLICKER: "128x128"}
    whole = score_vbench(clips, [MOTION, FLICKER], Scoring(weights, tmp_path / "a")).set_index("metric")
    assert whole.loc[FLICKER, "value"] == shrunk.loc[FLICKER, "value"]
    assert abs(whole.loc[MOTION, "value"] - shrunk.loc[MOTION, "value"]) > 1e-4

    video = cv2.VideoCapture(clips["path"].iloc[0])
    frames = [video.read()[1][..., ::-1] for _ in range(3)]
    small = [frame.reshape(64, 2, 64, 2, 3).mean((1, 3)) for frame in frames]  # INTER_AREA at a factor of two
    path = write_clip(tmp_path / "small.mp4", np.floor(np.stack(small) + 0.5).astype(np.uint8))
    before = clips.assign(path=str(path), height=64, width=64)
    expected = score_vbench(before, [MOTION], Scoring(weights, tmp_path / "b"))["value"].item()
    assert shrunk.loc[MOTION, "value"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("size", "raft", "amt"), [((1408, 2560), 17e9, 34e9), ((2176, 3840), 91e9, 181e9)])
def test_memory_of_all_pairs_correlations(size, raft, amt):
    """METHOD section 9, without the frames themselves."""
    assert flow_memory("dynamic_degree", 0, *size, None) == pytest.approx(raft, rel=0.02)
    assert flow_memory("motion_smoothness", 0, *size, None) == pytest.approx(amt, rel=0.02)
    assert flow_memory("motion_smoothness", 121, *size, 512) < 1e9


def test_what_would_not_fit_is_refused_with_the_figure_and_the_way_out(clip_table, weights, tmp_path, monkeypatch):
    monkeypatch.setattr(vbench, "free_memory", lambda device: 20_000_000_000)
    clips = clip_table.assign(frames=121, height=2176, width=3840)
    scoring = Scoring(weights, tmp_path, workers=2)
    found = vbench.states(clips, ["dynamic_degree", MOTION, FLICKER], scoring)
    assert isinstance(found[FLICKER], vbench.Ready)
    for words in ("at least 102.", "2 at once", "20.0 GB are free on cpu", "set evaluation.flow_side"):
        assert words in found["dynamic_degree"].reason
    small = Scoring(weights, tmp_path, workers=2, flow_side=512)
    assert all(isinstance(state, vbench.Ready) for state in vbench.states(clips, [MOTION], small).values())


@pytest.mark.parametrize(
    ("name", "size", "side", "seen"),
    [
        ("imaging_quality", (2176, 3840), None, (290, 512)),
        ("imaging_quality", (256, 512), None, (256, 512)),
        ("subject_consistency", (2176, 3840), None, (224, 395)),
        ("dynamic_degree", (2176, 3840), 512, (290, 512)),
        ("dynamic_degree", (256, 448), 512, (256, 448)),
        ("color", (2176, 3840), None, (720, 1270)),
        ("scene", (64, 64), None, (384, 384)),
        (FLICKER, (2176, 3840), 512, (2176, 3840)),
    ],
)
def test_sizes_that_models_see(name, size, side, seen):
    assert seen_size(name, *size, side) == seen


def test_dimensions_are_scored_on_the_clips_that_list_them(clip_table, weights, computed, tmp_path):
    table = clip_table.assign(dimensions=[FLICKER, f"{AESTHETIC};imaging_quality", FLICKER, ""])
    third = "background_consistency"
    scores = score_vbench(table, [FLICKER, AESTHETIC, third], Scoring(weights, tmp_path))
    assert scores.groupby("metric").size().to_dict() == {FLICKER: 3, AESTHETIC: 2, third: 1}
    assert len(computed) == 6


def test_manifest_states_the_protocol_and_every_size_seen(clip_table):
    manifest = vbench_manifest(clip_table, [FLICKER, MOTION], "vbench_standard", "none", 32)
    assert (manifest["protocol"], manifest["prompt_rewriting"], manifest["flow_side"]) == (
        "vbench_standard",
        "none",
        32,
    )
    assert manifest["seen_sizes"] == {"64x64": {FLICKER: [64, 64], MOTION: [32, 32]}}
    assert "at most 32 pixels" in manifest["dimensions"][MOTION]
    assert "static filter" in manifest["notes"][0]


def test_clips_too_short_for_a_dimension_say_so(weights, write_clip, computed, tmp_path):
    """VBench itself divides by zero, or calls a single frame a clip without motion."""
    rows = []
    for frames in (1, 2, 3):
        pixels = np.random.default_rng(0).integers(0, 255, (frames, 64, 64, 3), dtype=np.uint8)
        path = write_clip(tmp_path / f"{frames}.mp4", pixels)
        rows.append(("full", frames, "a red circle", 0, str(path), 8.0, frames, 64, 64))
    columns = ["arm", "prompt_index", "prompt", "seed", "path", "fps", "frames", "height", "width"]
    names = ["subject_consistency", "background_consistency", FLICKER, MOTION, "dynamic_degree", AESTHETIC]
    table = score_vbench(pd.DataFrame(rows, columns=columns), names, Scoring(weights, tmp_path / "work"))
    short = table[table["status"] == "skipped"]
    needed = {MOTION: {1, 2}} | {name: {1} for name in names[:5] if name != MOTION}
    assert short.groupby("metric")["prompt_index"].agg(set).to_dict() == needed
    assert short["reason"].str.match("at least [23] frames are needed; the clip has [12]").all()
    assert short["value"].isna().all() and set(table["status"]) == {"skipped", "scored"}
    assert ("1.mp4", "dynamic_degree") not in computed
