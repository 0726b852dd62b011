"""Frames are read back as written, sheets hold every arm, embedding keeps to its budget."""

from pathlib import Path

import numpy as np
import pytest

from vibe_pipeline.io.video import read_clip
from vibe_pipeline.reporting import gallery
from vibe_pipeline.reporting.media import Panel, contact_sheet, detail_window, mid_frame, some_frames, video_uri
from vibe_pipeline.reporting.report_inputs import ReportInputs


def test_frames_are_read_back(inputs: ReportInputs) -> None:
    path = Path(inputs.clips["path"].iloc[0])
    asked: list[int] = []
    frames = some_frames(path, lambda count: asked.append(count) or [0, count // 2, count - 1])
    assert asked == [9]
    whole = np.rint(read_clip(path) * 255)
    assert frames[0].dtype == np.uint8 and np.array_equal(frames, whole[[0, 4, 8]])


def test_missing_and_broken_clips_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="gone"):
        mid_frame(tmp_path / "gone.mp4")
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"not a video")
    with pytest.raises(ValueError, match="broken"):
        mid_frame(broken)


def test_the_window_is_where_the_detail_is() -> None:
    frame = np.zeros((32, 48, 3), np.uint8)
    frame[20:28:2, 30:40] = 255
    top, left = detail_window(frame, 10, 12)
    assert 17 <= top <= 21
    assert 27 <= left <= 31


@pytest.mark.parametrize("count", [1, 5, 6, 11])
def test_sheet_has_room_for_every_panel(count: int) -> None:
    label = "an arm with a rather long name that must be cut somewhere"
    panels = [Panel(label, np.full((16, 24, 3), 200, np.uint8))] * count
    sheet = np.asarray(contact_sheet(panels, tile=48))
    bright = (sheet == 200).all(-1).sum()
    assert bright == count * 2 * 48 * 32


def test_a_clip_too_large_is_shrunk_or_left_out(inputs: ReportInputs) -> None:
    path = Path(inputs.clips["preview_path"].iloc[0])
    assert video_uri(path, 1_000_000).startswith("data:video/mp4;base64,")
    assert video_uri(path, 10) == ""


def test_vanished_clips_are_reported_without_folders(unrun: ReportInputs) -> None:
    sheet = gallery.sheets(unrun.clips, unrun.arms, 1, 1_000_000)[0]
    assert not sheet.uri
    assert len(sheet.problems) == len(unrun.arms)
    assert not any("/nowhere" in p for p in sheet.problems)
    assert all(r.problem for r in gallery.takes(unrun.clips, unrun.arms, 1, 1_000_000)[0].reels)


def test_reference_path_stands_in_for_a_truth_arm(inputs: ReportInputs) -> None:
    truth = inputs.clips[inputs.clips["arm"] == "truth"]["path"].iloc[0]
    clips = inputs.clips[inputs.clips["arm"] != "truth"].assign(reference_path=truth)
    assert "True render" in gallery.sheets(clips, inputs.arms, 1, 10_000_000)[0].alt
