"""Pictures and clips for the page: frames read back, contact sheets, and base64 embedding within a budget."""

import base64
import io
import math
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from vibe_pipeline.io.video import pick_frames
from vibe_pipeline.reporting.motion import Focus

Frames = NDArray[np.uint8]

PAPER, TEXT = (30, 31, 34), (232, 232, 230)
COLUMNS, TILE, GAP = 5, 256, 8
PNG_LIMIT = 1_500_000


@dataclass(frozen=True)
class Panel:
    """One labelled picture of a contact sheet, RGB [height, width, 3]."""

    label: str
    frame: Frames


def some_frames(path: Path, choose: Callable[[int], list[int]]) -> list[Frames]:
    """Some frames of a video, RGB uint8 [height, width, 3]; `choose` gets the number of frames and gives indices.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file holds no readable frame.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no clip at {path}")
    return pick_frames(path, choose)


def mid_frame(path: Path) -> Frames:
    """The middle frame of a clip, [height, width, 3]."""
    return some_frames(path, lambda count: [count // 2])[0]


def detail_window(frame: Frames, height: int, width: int) -> tuple[int, int]:
    """Top and left of the window of this size with the most fine detail (summed gradients)."""
    grey = frame.astype(np.float32).mean(-1)
    energy = np.zeros_like(grey)
    energy[1:] += np.abs(np.diff(grey, axis=0))
    energy[:, 1:] += np.abs(np.diff(grey, axis=1))
    total = np.pad(energy.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    sums = total[height:, width:] - total[:-height, width:] - total[height:, :-width] + total[:-height, :-width]
    top, left = np.unravel_index(int(sums.argmax()), sums.shape)
    return int(top), int(left)


def contact_sheet(
    panels: Sequence[Panel], focus: Focus | None = None, columns: int = COLUMNS, tile: int = TILE
) -> Image.Image:
    """A sheet of labelled pictures: each whole above, and below it one window of it at twice the size.

    The window lies at the focus, or where the LAST panel, the true render if there is one, has the most detail; it is
    the same for all panels. Enlargement is by whole pixels, so nothing is smoothed.

    Args:
        panels: The pictures, in order.
        focus: Of the clips that these are the middle frames of, where it follows something that moves.
        columns: Most pictures side by side; further ones go below.
        tile: Width of a picture in pixels, at most; small ones are enlarged by a whole factor to fit it.
    """
    if not panels:
        raise ValueError("a contact sheet needs at least one picture")
    height, width = panels[-1].frame.shape[:2]
    tile = max(tile // width, 1) * width if width <= tile else tile
    tall = round(tile * height / width)
    across = math.ceil(len(panels) / math.ceil(len(panels) / columns))
    font = ImageFont.load_default(size=14)
    names = [wrapped(p.label, tile, font) for p in panels]
    head = 19 * max(len(lines) for lines in names) + 4
    block = head + 2 * tall + 3 * GAP
    rows = math.ceil(len(panels) / across)
    sheet = Image.new("RGB", (across * (tile + GAP) + GAP, rows * block + GAP), PAPER)
    window = (max(1, min(height // 2, tall // 2)), max(1, min(width // 2, tile // 2)))
    top, left = _window_at(focus, (height, width), window) or detail_window(panels[-1].frame, *window)
    for i, panel in enumerate(panels):
        x, y = GAP + i % across * (tile + GAP), GAP + i // across * block
        ImageDraw.Draw(sheet).multiline_text((x, y), "\n".join(names[i]), TEXT, font, spacing=3)
        whole = _resized(panel.frame, width, height)
        crop = whole[top : top + window[0], left : left + window[1]]
        sheet.paste(Image.fromarray(_resized(whole, tile, tall)), (x, y + head))
        sheet.paste(Image.fromarray(_resized(crop, tile, tall)), (x, y + head + tall + GAP))
    return sheet


def _window_at(focus: Focus | None, size: tuple[int, int], window: tuple[int, int]) -> tuple[int, int] | None:
    """Top and left of a window around the focus of the middle frame, inside the frame; None: nothing moves."""
    if focus is None or not focus.moves:
        return None
    across, down = focus.middle
    centres = (down * size[0] / 100, across * size[1] / 100)
    top, left = (min(max(0, round(c - w / 2)), side - w) for c, w, side in zip(centres, window, size, strict=True))
    return top, left


def _resized(frame: Frames, width: int, height: int) -> Frames:
    if frame.shape[:2] == (height, width):
        return frame
    enlarge = width >= frame.shape[1]
    method = Image.Resampling.NEAREST if enlarge else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(frame).resize((width, height), method))


def wrapped(label: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """Break a label into at most two lines that fit a width; what does not fit ends in an ellipsis."""
    lines: list[str] = [""]
    for word in label.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > 2:
        lines = [lines[0], lines[1] + " …"]
    while len(lines[-1]) > 2 and font.getlength(lines[-1]) > width:
        lines[-1] = lines[-1].removesuffix("…").rstrip()[:-1] + "…"
    return lines


def image_uri(image: Image.Image) -> str:
    """An image as a data URI: PNG, or JPEG where a PNG would be very large."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    if buffer.tell() <= PNG_LIMIT:
        return _uri("image/png", buffer.getvalue())
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return _uri("image/jpeg", buffer.getvalue())


def video_uri(path: Path, limit: int) -> str:
    """A preview mp4 as a data URI of at most `limit` bytes; a larger file is shrunk; '' if even that is too large.

    Raises:
        FileNotFoundError: There is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no preview clip at {path}")
    content = path.read_bytes()
    if len(content) * 4 / 3 > limit:
        content = _shrunk(path)
    return _uri("video/mp4", content) if content and len(content) * 4 / 3 <= limit else ""


def _shrunk(path: Path, width: int = 480) -> bytes:
    """The clip at a smaller size and rate, for looking at only; empty if ffmpeg refuses."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "small.mp4"
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path), "-an", "-vf", f"scale={width}:-2"]
        command += ["-c:v", "libx264", "-crf", "30", "-pix_fmt", "yuv420p", "-threads", "1"]
        done = subprocess.run([*command, "-movflags", "+faststart", str(out)], capture_output=True, check=False)
        return out.read_bytes() if done.returncode == 0 else b""


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
