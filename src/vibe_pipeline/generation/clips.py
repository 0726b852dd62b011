"""Clips on disk: lossless for scoring, a small playable copy for people."""

from pathlib import Path

import imageio.v2 as imageio
import numpy as np
from numpy.typing import NDArray

from vibe_pipeline.identity import write_atomic
from vibe_pipeline.messages import brief

PREVIEW_SIDE = 256
# Containers alone: under any name ffmpeg would follow a playlist to files elsewhere.
CONTAINERS = ("-protocol_whitelist", "file", "-format_whitelist", "mp4,matroska,avi")


def write_lossless(path: Path, clip: NDArray[np.float32], fps: float) -> Path:
    """Write RGB [T, H, W, 3] in [0, 1] as 8-bit lossless H.264; reading it back gives the same bytes.

    Raises:
        ValueError: The clip has another shape, or a value that is not finite.
    """
    if clip.ndim != 4 or clip.shape[-1] != 3 or not np.isfinite(clip).all():
        raise ValueError(f"{path}: expected finite RGB frames [T, H, W, 3], got shape {clip.shape}")
    frames = np.rint(clip * 255).clip(0, 255).astype(np.uint8)
    # Without macro_block_size=1 frames are resized to multiples of 16; yuv420p would halve the colour.
    options = {"codec": "libx264rgb", "pixelformat": "rgb24", "macro_block_size": 1, "quality": None}
    return _write(path, frames, fps, options | {"output_params": ["-qp", "0", "-preset", "veryfast"]})


def write_preview(path: Path, clip: NDArray[np.float32], fps: float) -> Path:
    """Write a copy that browsers and the MLflow UI play: yuv420p, enlarged without smoothing to at least 256 rows."""
    factor = max(1, -(-PREVIEW_SIDE // clip.shape[1]))
    frames = np.rint(clip * 255).clip(0, 255).astype(np.uint8).repeat(factor, 1).repeat(factor, 2)
    options = {"codec": "libx264", "pixelformat": "yuv420p", "macro_block_size": 2, "quality": 8}
    return _write(path, frames, fps, options | {"output_params": ["-movflags", "+faststart"]})


def _write(path: Path, frames: NDArray[np.uint8], fps: float, options: dict) -> Path:
    def write(temporary: Path) -> None:
        with imageio.get_writer(temporary, format="FFMPEG", fps=fps, ffmpeg_log_level="error", **options) as writer:
            for frame in frames:
                writer.append_data(frame)

    return write_atomic(path, write)


def read_clip(path: Path) -> NDArray[np.float32]:
    """Read a clip as RGB float32 [T, H, W, 3] in [0, 1].

    Raises:
        ValueError: The file cannot be read as a video.
    """
    try:
        with imageio.get_reader(path, format="FFMPEG", pixelformat="rgb24", input_params=list(CONTAINERS)) as reader:
            frames = np.stack(list(reader.iter_data()))
    except (OSError, ValueError, RuntimeError, IndexError) as error:
        raise ValueError(f"{path} cannot be read as a video: {brief(error, 240)}") from error
    return frames.astype(np.float32) / 255
