"""Clips on disk: lossless for scoring, a small playable copy for people; read and written a frame at a time."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vibe_pipeline.io.decoding import Frame, decoded
from vibe_pipeline.io.files import write_atomic

PREVIEW_ROWS = 256
PREVIEW_SIDE = 960


def write_lossless(path: Path, clip: Iterable[NDArray[np.float32] | Frame], fps: float) -> Path:
    """Write frames as 8-bit lossless H.264; reading it back gives the same bytes.

    Args:
        path: The new mp4.
        clip: RGB frames [H, W, 3], bytes or floats in [0, 1]; taken one at a time.
        fps: Frames a second.

    Raises:
        ValueError: A frame has another shape, or a value that is not finite.
    """
    # Without macro_block_size=1 frames are resized to multiples of 16; yuv420p would halve the colour.
    options = {"codec": "libx264rgb", "pixelformat": "rgb24", "macro_block_size": 1, "quality": None}
    frames = (_bytes(frame, path) for frame in clip)
    # Ultrafast leaves out CABAC, which takes three quarters of the time of writing and of every reading, for a tenth of
    # the size.
    return _write(path, frames, fps, options | {"output_params": ["-qp", "0", "-preset", "ultrafast"]})


def write_preview(path: Path, clip: Iterable[NDArray[np.float32] | Frame], fps: float) -> Path:
    """Write a copy that browsers and the MLflow UI play: yuv420p, small frames enlarged without smoothing to at least
    256 rows, large ones shrunk with a low-pass to a long side of at most 960 pixels.

    Args:
        path: The new mp4.
        clip: As for :func:`write_lossless`.
        fps: Frames a second.

    Raises:
        ValueError: As :func:`write_lossless`.
    """
    frames = (_fitted(_bytes(frame, path)) for frame in clip)
    options = {"codec": "libx264", "pixelformat": "yuv420p", "macro_block_size": 2, "quality": 8}
    return _write(path, frames, fps, options | {"output_params": ["-movflags", "+faststart"]})


def write_playable(path: Path, clip: Iterable[NDArray[np.float32] | Frame], fps: float) -> Path:
    """Write a copy at full size that players and browsers show and the eye cannot tell from the lossless one.

    H.264 in yuv420p, with colours stated to be BT.709 and a constant rate factor of 14.

    Args:
        path: The new mp4.
        clip: As for :func:`write_lossless`; height and width are even.
        fps: Frames a second.

    Raises:
        ValueError: As :func:`write_lossless`.
    """
    frames = (_bytes(frame, path) for frame in clip)
    matrix = ["-vf", "scale=out_color_matrix=bt709:out_range=tv"]
    stated = ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"]
    options = {"codec": "libx264", "pixelformat": "yuv420p", "macro_block_size": 2, "quality": None}
    return _write(
        path, frames, fps, options | {"output_params": [*matrix, *stated, "-crf", "14", "-movflags", "+faststart"]}
    )


def read_frames(path: Path) -> Iterator[Frame]:
    """The frames of a clip as they are stored, RGB bytes [H, W, 3] in display orientation, one in memory at a time.

    Raises:
        ValueError: The file cannot be read as a video.
    """
    return decoded(path)


def read_clip(path: Path) -> NDArray[np.float32]:
    """Read a whole clip as RGB float32 [T, H, W, 3] in [0, 1]: for native and miniature clips, which are small.

    Raises:
        ValueError: The file cannot be read as a video.
    """
    frames = np.stack(list(read_frames(path))).astype(np.float32)
    return np.divide(frames, 255, out=frames)


def pick_frames(path: Path, choose: Callable[[int], list[int]]) -> list[Frame]:
    """Some frames of a clip; decodes it twice, so that only these are ever in memory.

    Args:
        path: The clip's file.
        choose: From the number of frames, the indices that are wanted; one may stand several times.

    Raises:
        ValueError: The file cannot be read as a video.
    """
    wanted = choose(sum(1 for _ in read_frames(path)))
    found = {index: frame for index, frame in enumerate(read_frames(path)) if index in set(wanted)}
    return [found[index] for index in wanted]


def _bytes(frame: NDArray[np.float32] | Frame, path: Path) -> Frame:
    if frame.ndim != 3 or frame.shape[-1] != 3 or not np.isfinite(frame).all():
        raise ValueError(f"{path}: expected finite RGB frames [H, W, 3], got one of shape {frame.shape}")
    if frame.dtype == np.uint8:
        return frame.astype(np.uint8, copy=False)
    scaled = frame * 255
    return np.rint(scaled, out=scaled).clip(0, 255, out=scaled).astype(np.uint8)


def _fitted(frame: Frame) -> Frame:
    """A frame at the size of a playable copy."""
    height, width = frame.shape[:2]
    longest = max(height, width)
    if longest > PREVIEW_SIDE:
        # Even sides, as yuv420p has half the colour samples along both.
        small = [max(2, 2 * round(side * PREVIEW_SIDE / longest / 2)) for side in (width, height)]
        return np.asarray(Image.fromarray(frame).resize(tuple(small), Image.Resampling.LANCZOS))
    factor = max(1, min(-(-PREVIEW_ROWS // height), PREVIEW_SIDE // longest))
    return frame.repeat(factor, 0).repeat(factor, 1)


def _write(path: Path, frames: Iterable[Frame], fps: float, options: dict) -> Path:
    def write(temporary: Path) -> None:
        with imageio.get_writer(temporary, format="FFMPEG", fps=fps, ffmpeg_log_level="error", **options) as writer:
            for frame in frames:
                writer.append_data(frame)  # type: ignore[attr-defined]  # of the writer, which imageio types as either

    return write_atomic(path, write)
