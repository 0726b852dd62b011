"""Imaging quality on tiles of full-size frames."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from vibe_pipeline.evaluation.metrics import patches
from vibe_pipeline.evaluation.metrics.patches import METRIC, patch_quality, score_patches, spaced_frames, tiles
from vibe_pipeline.vbench.run import Scoring
from vibe_pipeline.vbench.score import score_vbench

needs_weights = pytest.mark.skipif(find_spec("vbench") is None, reason="vbench is not installed")


@pytest.mark.parametrize(
    ("size", "count", "tile"),
    [
        ((64, 64), 1, (64, 64)),
        ((512, 513), 2, (512, 512)),
        ((1088, 1920), 12, (512, 512)),
        ((300, 1024), 2, (300, 512)),
    ],
)
def test_tiles_cover_the_frame_unshrunk(size, count, tile):
    frame = np.arange(size[0] * size[1], dtype=np.int64).reshape(*size, 1).repeat(3, -1)
    cut = tiles(frame)
    assert len(cut) == count and {part.shape[:2] for part in cut} == {tile}
    assert len(np.unique(np.concatenate([part[..., 0].ravel() for part in cut]))) == frame[..., 0].size


def test_detail_counts_at_full_resolution():
    """Stripes one pixel wide vanish when a frame is shrunk; a score of contrast must see them in tiles."""
    stripes = np.zeros((600, 1100, 3), np.uint8)
    stripes[:, ::2] = 255
    seen = []

    def contrast(images):
        seen.append(tuple(images.shape))
        return images.std((1, 2, 3)) * 200

    assert patch_quality(iter([stripes]), contrast) == pytest.approx(1.0, abs=0.01)
    assert seen == [(6, 3, 512, 512)]
    assert patch_quality(iter([np.zeros_like(stripes), stripes]), contrast) == pytest.approx(0.5, abs=0.01)
    with pytest.raises(ValueError, match="no frames"):
        patch_quality(iter([]), lambda images: torch.zeros(len(images)))


def test_spaced_frames(tmp_path, write_clip):
    frames = np.stack([np.full((64, 64, 3), 5 * i, np.uint8) for i in range(40)])
    levels = [int(frame[0, 0, 0]) // 5 for frame in spaced_frames(write_clip(tmp_path / "a.mp4", frames), 40)]
    assert len(levels) == 16 and levels[0] == 0 and levels[-1] == 39 and set(np.diff(levels)) <= {2, 3}


@needs_weights
@pytest.mark.filterwarnings("ignore")
def test_a_frame_of_one_tile_gets_vbenchs_own_score(moving_clips, weights, standins, tmp_path, monkeypatch):
    from pyiqa.archs.musiq_arch import MUSIQ

    clips = moving_clips.iloc[[0, 2]].assign(key=["a", "b"])
    with standins.shallow():
        theirs = score_vbench(clips.drop(columns="key"), ["imaging_quality"], Scoring(weights, tmp_path))
    monkeypatch.setattr(MUSIQ, "__init__", standins.with_sizes(MUSIQ.__init__, num_layers=1))
    ours = score_patches("full", clips, weights, "cpu", tmp_path)
    np.testing.assert_allclose(ours["value"], theirs["value"], atol=1e-4)
    assert list(ours["seen"]) == ["128x128", "128x128"] and set(ours["metric"]) == {METRIC}
    monkeypatch.delattr(patches, "_load")
    again = score_patches("full", clips, weights, "cpu", tmp_path)  # kept: the model is not even built
    np.testing.assert_array_equal(again["value"], ours["value"])


def test_without_weights_it_is_skipped_with_the_way_out(tmp_path):
    row = score_patches("full", None, tmp_path, "cpu", tmp_path).iloc[0]
    assert row["status"] == "skipped" and np.isnan(row["value"]) and row["prompt_index"] == -1
    if find_spec("pyiqa"):
        assert "kedro vibe fetch-weights --dimensions imaging_quality" in row["reason"]
        assert str(Path("pyiqa_model")) in row["reason"]
