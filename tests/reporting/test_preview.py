"""The native clips at a glance."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from vibe_pipeline.io.video import read_clip, write_lossless
from vibe_pipeline.io.video import write_preview as write_playable
from vibe_pipeline.reporting.media import mid_frame, video_uri
from vibe_pipeline.reporting.preview import FRAME, PER_SHEET, preview_sheet, write_preview


def clips(folder: Path, count: int) -> pd.DataFrame:
    rows = []
    for i in range(count):
        clip = np.zeros((5, 8, 16, 3), np.float32)
        clip[0, ..., 0] = clip[2, ..., 1] = clip[4, ..., 2] = 1.0
        path = write_lossless(folder / f"{i}.mp4", clip, 8)
        playable = write_playable(folder / f"{i}.preview.mp4", clip, 8)
        rows.append({"prompt_index": i, "prompt": f"prompt {i}", "seed": 0, "path": path, "preview_path": playable})
    return pd.DataFrame(rows)


def test_a_sheet_shows_first_middle_and_last_frame(tmp_path: Path) -> None:
    pixels = np.asarray(preview_sheet(clips(tmp_path, 1)))
    row = pixels[-20, 8 : 8 + 3 * FRAME]
    middles = row[[FRAME // 2, FRAME + FRAME // 2, 2 * FRAME + FRAME // 2]]
    assert middles.tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


def test_many_clips_make_several_sheets_and_old_ones_go(tmp_path: Path) -> None:
    folder = tmp_path / "preview"
    table = clips(tmp_path / "native", PER_SHEET + 1)
    sheets = write_preview(table, folder)
    assert [s.name for s in sheets] == ["sheet_1.png", "sheet_2.png"]
    assert len(list((folder / "clips").glob("*.mp4"))) == PER_SHEET + 1
    assert Image.open(sheets[0]).size[1] > Image.open(sheets[1]).size[1]
    write_preview(table[:1], folder)
    assert sorted(p.name for p in folder.rglob("*.*")) == ["0000-0.mp4", "sheet_1.png"]


def test_one_frame_clips_have_sheets_and_play(tmp_path: Path) -> None:
    clip = np.full((1, 16, 24, 3), 0.5, np.float32)
    path, playable = write_lossless(tmp_path / "a.mp4", clip, 8), write_playable(tmp_path / "a.preview.mp4", clip, 8)
    row = {"prompt_index": 0, "prompt": "p", "seed": 0, "path": path, "preview_path": playable}
    (sheet,) = write_preview(pd.DataFrame([row]), tmp_path / "preview")
    assert np.asarray(Image.open(sheet))[-20, 8 + FRAME // 2].tolist() == [128, 128, 128]
    assert mid_frame(path).shape == (16, 24, 3) and len(read_clip(playable)) == 1
    assert video_uri(playable, 1_000_000).startswith("data:video/mp4")
