"""Clips on disk: the lossless copy byte for byte, the preview for browsers."""

import re
import subprocess
import tracemalloc
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from vibe_pipeline.io.video import pick_frames, read_clip, read_frames, write_lossless, write_preview


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
    ("shape", "size"),
    [
        ((1408, 2560), (528, 960)),
        ((2176, 3840), (544, 960)),
        ((2560, 1408), (960, 528)),
        ((961, 30), (960, 30)),
        ((100, 1000), (96, 960)),
        ((64, 128), (256, 512)),
        ((20, 900), (20, 900)),
        ((700, 959), (700, 960)),
    ],
)
def test_a_preview_is_bounded(tmp_path: Path, shape: tuple[int, int], size: tuple[int, int]) -> None:
    path = write_preview(tmp_path / "clip.preview.mp4", np.full((1, *shape, 3), 0.5, np.float32), 8)
    assert read_clip(path).shape == (1, *size, 3)


def test_a_large_preview_has_no_aliases(tmp_path: Path) -> None:
    """A checkerboard of single pixels becomes grey; picking every second pixel would give black or white."""
    board = (np.indices((1080, 1920)).sum(0) % 2).astype(np.float32)
    read = read_clip(write_preview(tmp_path / "clip.mp4", np.repeat(board[None, ..., None], 3, -1), 8))
    np.testing.assert_allclose(read[0, 10:-10, 10:-10], 0.5, atol=0.03)


def test_clips_are_written_and_read_a_frame_at_a_time(tmp_path: Path) -> None:
    """Beside the clip itself a few frames are in memory, however many it has."""
    clip = np.broadcast_to(np.float32(0.5), (60, 180, 320, 3))
    frame = 180 * 320 * 3 * 4
    tracemalloc.start()
    try:
        path = write_lossless(tmp_path / "clip.mp4", clip, 8)
        write_preview(tmp_path / "clip.preview.mp4", clip, 8)
        assert sum(1 for _ in read_frames(path)) == 60
        first, again, last = pick_frames(path, lambda count: [0, 0, count - 1])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert first is again and np.array_equal(first, last)
    assert peak < 12 * frame


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
