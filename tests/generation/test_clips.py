"""Clips on disk: the lossless copy byte for byte, the preview for browsers."""

import re
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from vibe_pipeline.generation.clips import read_clip, write_lossless, write_preview


def stream(path: Path) -> str:
    """ffmpeg's line about the video stream."""
    said = subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-i", path], capture_output=True, text=True).stderr
    return next(line for line in said.splitlines() if "Video:" in line)


def random_frames(frames: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("shape", "fps"),
    [
        ((9, 64, 64), 8),
        ((5, 33, 47), 8),
        ((1, 17, 31), 24),
        ((2, 16, 18), 7.5),
        ((13, 20, 22), 23.976),
        ((3, 2, 3), 16),
    ],
)
def test_a_lossless_clip_comes_back_byte_for_byte(tmp_path: Path, shape: tuple[int, int, int], fps: float) -> None:
    frames = random_frames(*shape)
    path = write_lossless(tmp_path / "new" / "clip.mp4", frames.astype(np.float32) / 255, fps)
    read = read_clip(path)
    assert read.dtype == np.float32
    assert np.array_equal(np.rint(read * 255).astype(np.uint8), frames)
    assert [p.name for p in path.parent.iterdir()] == ["clip.mp4"]


def test_values_are_rounded_and_clipped(tmp_path: Path) -> None:
    clip = np.full((2, 4, 4, 3), 0.5, np.float32)
    clip[0], clip[1, 0] = 1.2, -0.3
    read = read_clip(write_lossless(tmp_path / "clip.mp4", clip, 8))
    assert read[0].min() == 1
    assert read[1, 0].max() == 0
    assert read[1, 1:] == pytest.approx(128 / 255)


@pytest.mark.parametrize("shape", [(3, 64, 64), (3, 33, 47), (2, 300, 201)])
def test_a_preview_is_what_browsers_play(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    clip = np.broadcast_to(np.linspace(0, 1, shape[1], dtype=np.float32)[None, :, None, None], (*shape, 3))
    path = write_preview(tmp_path / "clip.preview.mp4", clip, 8)
    line = stream(path)
    assert "h264" in line
    assert re.search(r"yuv420p[(,]", line)
    read = read_clip(path)
    assert len(read) == shape[0]
    assert read.shape[1] >= 256
    factor = round(read.shape[1] / shape[1])
    assert abs(read.shape[2] - factor * shape[2]) <= 1
    rows = read[:, factor // 2 :: factor].mean((0, 2, 3))[: shape[1]]
    np.testing.assert_allclose(rows, clip[0, :, 0, 0], atol=0.05)


@pytest.mark.parametrize(
    "clip",
    [np.zeros((4, 4, 3), np.float32), np.zeros((2, 4, 4, 4), np.float32), np.full((2, 4, 4, 3), np.nan, np.float32)],
    ids=["one frame", "four channels", "nan"],
)
def test_what_is_no_clip_is_refused(tmp_path: Path, clip: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"clip\.mp4: expected finite RGB"):
        write_lossless(tmp_path / "clip.mp4", clip, 8)
    assert not (tmp_path / "clip.mp4").exists()


@pytest.mark.parametrize("content", [None, b"", b"not a video" * 99])
def test_a_file_that_is_no_video_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "broken.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.mp4 cannot be read as a video"):
        read_clip(path)
