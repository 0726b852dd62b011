"""VBench through score_vbench: equal to a stock call, nothing dropped, nothing fetched, nothing printed."""

import builtins
import json
import logging
import math
import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from vibe_pipeline.io.score_table import SCORE_COLUMNS
from vibe_pipeline.vbench.manifest import vbench_manifest
from vibe_pipeline.vbench.readiness import Ready
from vibe_pipeline.vbench.run import Scoring
from vibe_pipeline.vbench.score import NothingScoredError, score_vbench

needs_vbench = pytest.mark.skipif(find_spec("vbench") is None, reason="vbench is not installed")
FLICKER = "temporal_flickering"
SETTINGS = ("VBENCH_CACHE_DIR", "TORCH_HOME", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "https_proxy", "no_proxy")


def stock_scores(folder, out):
    """What a plain call of the package gives: file name to score."""
    import torch
    from vbench import VBench

    VBench(torch.device("cpu"), "", str(out)).evaluate(
        videos_path=str(folder), name="stock", dimension_list=[FLICKER], mode="custom_input"
    )
    mean, clips = json.loads((out / "stock_eval_results.json").read_text())[FLICKER]
    return mean, {Path(clip["video_path"]).name: clip["video_results"] for clip in clips}


@needs_vbench
def test_several_arms_equal_stock_calls_and_nothing_is_printed(clip_table, tmp_path, capfd, caplog):
    caplog.set_level(logging.WARNING, "vibe_pipeline")  # a console that another test set up would show our own lines
    before = {name: os.environ.get(name) for name in SETTINGS}
    root = (list(logging.getLogger().handlers), logging.getLogger().level)
    table = score_vbench(clip_table, [FLICKER], Scoring(tmp_path / "cache", tmp_path / "work"))

    assert capfd.readouterr() == ("", "")
    assert {name: os.environ.get(name) for name in SETTINGS} == before
    assert (list(logging.getLogger().handlers), logging.getLogger().level) == root
    assert list(table.columns) == list(SCORE_COLUMNS)
    assert set(table["status"]) == {"scored"} and set(table["family"]) == {"vbench"} and set(table["reason"]) == {""}
    for arm, clips in clip_table.groupby("arm"):
        mean, stock = stock_scores(Path(clips["path"].iloc[0]).parent, tmp_path / f"stock_{arm}")
        ours = table[table["arm"] == arm]
        assert dict(zip(ours["prompt_index"], ours["value"], strict=True)) == {
            clip.prompt_index: stock[Path(clip.path).name] for clip in clips.itertuples()
        }
        assert ours["value"].mean() == pytest.approx(mean, abs=1e-15)
    assert not list((tmp_path / "work").glob("staged_*"))


@needs_vbench
def test_score_follows_the_definition(tmp_path, clip_table):
    """VBench's score is 1 - mean |frame difference| / 255, so the file's pixels predict it."""
    import imageio_ffmpeg

    row = clip_table.head(1)
    reader = imageio_ffmpeg.read_frames(row["path"].iloc[0], pix_fmt="rgb24")
    next(reader)
    frames = np.stack([np.frombuffer(f, np.uint8).reshape(64, 64, 3) for f in reader]).astype(float)
    value = score_vbench(row, [FLICKER], Scoring(tmp_path, tmp_path / "work"))["value"].item()
    assert value == pytest.approx(1 - np.abs(np.diff(frames, axis=0)).mean() / 255, abs=1e-6)


@needs_vbench
@pytest.mark.filterwarnings("ignore::RuntimeWarning:numpy")  # VBench averages no frame differences at all
def test_broken_clips_become_failed_rows(clip_table, with_row, tmp_path):
    garbage = tmp_path / "garbage.mp4"
    garbage.write_bytes(b"not a video")
    table = clip_table
    cases = {
        7: ({"path": str(garbage)}, "cannot be read as a video"),
        8: ({"path": str(tmp_path / "gone.mp4")}, "does not exist"),
        9: ({"frames": 13}, "holds 9 frames of 64x64, and its row says 13 frames of 64x64"),
        11: ({"path": str(tmp_path / "clip.webm")}, "is not an mp4"),
    }
    for seed, (changes, _) in cases.items():
        table = with_row(table, **(clip_table.iloc[-1].to_dict() | changes | {"seed": seed}))
    scores = score_vbench(table, [FLICKER], Scoring(tmp_path / "cache", tmp_path / "work"))
    assert len(scores) == len(table)
    assert (scores["status"] == "scored").sum() == len(clip_table)
    for seed, (changes, words) in cases.items():
        row = scores[scores["seed"] == seed].iloc[0]
        path = changes.get("path", clip_table["path"].iloc[-1])
        assert row["status"] == "failed" and math.isnan(row["value"])
        assert words in row["reason"] and path in row["reason"]


@needs_vbench
def test_a_score_that_is_not_a_number_fails(clip_table, tmp_path, monkeypatch):
    from vibe_pipeline.vbench.engine import Engine

    stock = Engine._value
    wrong = clip_table["path"][1]
    monkeypatch.setattr(Engine, "_value", lambda *a: math.nan if a[2].path == wrong else stock(*a))
    scores = score_vbench(clip_table, [FLICKER], Scoring(tmp_path / "cache", tmp_path / "work"))
    assert scores["status"].tolist() == ["scored", "failed", "scored", "scored"]
    assert scores["reason"][1] == f"VBench gave the score nan for {wrong}" and math.isnan(scores["value"][1])


@needs_vbench
def test_skipped_and_raising_dimensions_do_not_stop_the_others(clip_table, tmp_path):
    cache = tmp_path / "cache"
    (cache / "pyiqa_model").mkdir(parents=True)
    (cache / "pyiqa_model" / "musiq_spaq_ckpt-358bb6af.pth").write_bytes(b"not weights")
    table = score_vbench(
        clip_table, ["motion_smoothness", "imaging_quality", FLICKER, FLICKER], Scoring(cache, tmp_path / "work")
    )
    by_metric = dict(iter(table.groupby("metric")))
    assert set(by_metric[FLICKER]["status"]) == {"scored"} and len(by_metric[FLICKER]) == len(clip_table)
    for metric, status, words in (
        ("motion_smoothness", "skipped", "amt_model/amt-s.pth is not at"),
        ("imaging_quality", "failed", "failed, because VBench raised"),
    ):
        rows = by_metric[metric]
        assert list(rows["arm"]) == ["full", "base"] and rows["value"].isna().all()
        assert set(rows["status"]) == {status} and set(rows["prompt_index"]) == set(rows["seed"]) == {-1}
        assert rows["reason"].str.contains(words, regex=False).all()
        assert not rows["reason"].str.contains("\n").any()


@needs_vbench
def test_commands_in_reasons_and_in_the_log_name_the_environment(clip_table, tmp_path, caplog):
    caplog.set_level("INFO", "vibe_pipeline")
    scoring = Scoring(tmp_path / "cache", tmp_path / "work", env_option=" --env=mine")
    table = score_vbench(clip_table, ["motion_smoothness"], scoring, require_any=False)
    assert table["reason"].str.contains("`kedro vibe fetch-weights --dimensions motion_smoothness --env=mine`").all()
    assert "1 needs weights (`kedro vibe fetch-weights --env=mine`): motion_smoothness" in caplog.text


def test_nothing_scored_is_an_error_that_lists_the_reasons(clip_table, tmp_path):
    with pytest.raises(NothingScoredError, match=r"dynamic_degree: .*raft-things\.pth.*color: .*detectron2"):
        score_vbench(clip_table, ["dynamic_degree", "color"], Scoring(tmp_path, tmp_path / "work"))
    table = score_vbench(clip_table, ["dynamic_degree"], Scoring(tmp_path, tmp_path / "work"), require_any=False)
    assert list(table["status"]) == ["skipped", "skipped"] and table["value"].isna().all()


@pytest.mark.parametrize(
    ("change", "dimensions", "words"),
    [
        (lambda t: t.drop(columns="seed"), [FLICKER], "lacks the columns seed"),
        (lambda t: t.head(0), [FLICKER], "empty"),
        (lambda t: pd.concat([t, t.head(1)]), [FLICKER], "two clips for arm 'full', prompt 0, seed 0"),
        (lambda t: t, [], "name at least one"),
        (lambda t: t, ["sharpness"], "unknown VBench dimension 'sharpness'; the 16 are: subject_consistency"),
    ],
)
def test_wrong_input_is_refused(clip_table, tmp_path, change, dimensions, words):
    with pytest.raises(ValueError, match=words):
        score_vbench(change(clip_table), dimensions, Scoring(tmp_path, tmp_path))


def test_manifest_states_what_makes_a_score_reproducible(clip_table, with_row):
    manifest = vbench_manifest(clip_table, [FLICKER])
    assert manifest["seeds"] == [0] and manifest["sizes"] == [[64, 64]] and manifest["frames"] == [9]
    assert manifest["prompt_count"] == 2 and manifest["fps"] == [8.0] and manifest["arms"] == ["base", "full"]
    assert list(manifest["dimensions"]) == [FLICKER] and manifest["protocol"] == "custom"
    assert not manifest["vbench_long"] and manifest["longest_seconds"] == 1.125
    json.dumps(manifest)
    other_order = vbench_manifest(clip_table.iloc[::-1], [FLICKER])
    assert other_order == manifest
    changed = clip_table.assign(prompt=clip_table["prompt"] + "!")
    assert vbench_manifest(changed, [FLICKER])["prompts_sha256"] != manifest["prompts_sha256"]


@pytest.mark.parametrize(("frames", "fps", "is_long"), [(121, 24.0, True), (80, 16.0, True), (81, 16.25, False)])
def test_manifest_flags_vbench_long(clip_table, frames, fps, is_long):
    table = clip_table.copy()
    table.loc[table["arm"] == "base", ["frames", "fps"]] = (frames, fps)
    manifest = vbench_manifest(table, [FLICKER])
    assert manifest["vbench_long"] is is_long
    assert manifest["vbench_long_arms"] == (["base"] if is_long else [])


@needs_vbench
def test_vbench_that_cannot_be_started_fails_what_it_scores_and_not_the_run(clip_table, tmp_path, monkeypatch):
    """Installed, so that it is ready, but a library of the system is missing: on import, or when the engine opens."""
    from vibe_pipeline.vbench import engine

    def broken(*args, **kwargs):
        raise ImportError("libGL.so.1: cannot open shared object file")

    scoring = Scoring(tmp_path / "cache", tmp_path / "work")
    monkeypatch.setattr("vibe_pipeline.vbench.score.readiness", lambda name, *rest: Ready(name))
    with monkeypatch.context() as patch:
        patch.setattr(engine, "open_engine", broken)
        opened = score_vbench(clip_table, [FLICKER], scoring, require_any=False)
    real = builtins.__import__
    with monkeypatch.context() as patch:
        patch.setattr(
            builtins, "__import__", lambda name, *a: broken() if name.endswith("vbench.engine") else real(name, *a)
        )
        imported = score_vbench(clip_table, [FLICKER], scoring, require_any=False)
    for table in (opened, imported):
        assert set(table["status"]) == {"failed"} and len(table) == clip_table["arm"].nunique()
        said = "failed, because VBench cannot be started: ImportError: libGL.so.1: cannot open shared object file"
        assert set(table["reason"]) == {said}


@needs_vbench
def test_a_clip_that_the_decoder_chokes_on_fails_alone(clip_table, tmp_path, monkeypatch):
    from vibe_pipeline.vbench.shared_decode import Decoder

    stock, bad = Decoder.opencv_frames, clip_table["path"].iloc[0]

    def chokes(self, path):
        if path == str(Path(bad).resolve()):
            raise RuntimeError("moov atom not found")
        return stock(self, path)

    monkeypatch.setattr(Decoder, "opencv_frames", chokes)
    table = score_vbench(clip_table, [FLICKER], Scoring(tmp_path / "cache", tmp_path / "work"))
    assert table["status"].tolist() == ["failed"] + ["scored"] * (len(clip_table) - 1)
    assert "cannot be read as a video: RuntimeError: moov atom not found" in table["reason"].iloc[0]


@needs_vbench
def test_a_renamed_arm_is_not_scored_again(clip_table, tmp_path, monkeypatch):
    from vibe_pipeline.vbench import engine

    scored, stock = [], engine.Engine.score
    monkeypatch.setattr(engine.Engine, "score", lambda self, *of: scored.append(of) or stock(self, *of))
    scoring = Scoring(tmp_path / "cache", tmp_path / "work")
    first = score_vbench(clip_table, [FLICKER], scoring)
    once = len(scored)
    renamed = score_vbench(clip_table.assign(arm="new_" + clip_table["arm"]), [FLICKER], scoring)
    assert once and len(scored) == once
    pd.testing.assert_frame_equal(renamed, first.assign(arm="new_" + first["arm"]))
