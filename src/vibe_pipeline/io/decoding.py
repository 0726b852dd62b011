"""Reading any video file frame for frame: what is stored is what is measured.

ffmpeg by itself fills a clip of uneven times to a constant rate and goes on after damage. Here every stored frame
comes once, turned as players turn it, and a damaged or cut file is an error.
"""

import itertools
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from io import BufferedReader
from pathlib import Path
from statistics import median
from typing import cast

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

from vibe_pipeline.io.errors import one_line

Frame = NDArray[np.uint8]

# Containers alone: under any name ffmpeg would follow a playlist to files elsewhere. mp4 stands for mov too, and
# matroska for webm.
CONTAINERS = ("-protocol_whitelist", "file", "-format_whitelist", "mp4,matroska,avi")
READABLE = "mp4, mov, mkv, webm and avi"
# Matroska's demuxer only says that a file is cut; mp4's makes it an error.
_CUT = "ended prematurely"
_STREAM = re.compile(r"Stream #0:\d+.*?: Video: (?P<words>.*)")
_RATE = re.compile(r" ([0-9.]+k?) fps")
_DEEP = re.compile(r"(?:p|gray)1[0246](?:le|be)|\bp01[0-6]|x2rgb10|rgba?64|rgb48")
_ALPHA = re.compile(r"^(?:yuva|rgba|argb|bgra|abgr|gbrap|ya8|ya16|pal8)")


@dataclass(frozen=True)
class ClipInfo:
    """A clip as it is read.

    Attributes:
        height: Pixels, in display orientation.
        width: Pixels, in display orientation.
        frames: Counted, since containers lie about durations.
        fps: Frames a second; over the whole clip if times are uneven.
        notes: What of the file the measures do not see or a player would show otherwise, in words.
    """

    height: int
    width: int
    frames: int
    fps: float
    notes: tuple[str, ...] = ()


def decoded(path: Path) -> Iterator[Frame]:
    """The stored frames, RGB [H, W, 3] in display orientation, one at a time.

    Raises:
        ValueError: The file cannot be read as a video, is damaged or cut, or holds no frame.
    """
    output = ["-pix_fmt", "rgb24", "-c:v", "ppm", "-f", "image2pipe"]
    with _Ffmpeg(path, output) as ffmpeg:
        count = 0
        while (frame := _next_frame(ffmpeg.out)) is not None:
            count += 1
            yield frame
        ffmpeg.require_success(count)


def probe(path: Path) -> ClipInfo:
    """Size, length and rate of a clip, found by decoding it: its frames are not kept.

    Raises:
        ValueError: As :func:`decoded`.
    """
    # The time base of the file: by default times are rounded to the nominal rate.
    with _Ffmpeg(path, ["-enc_time_base", "demux", "-f", "framecrc"]) as ffmpeg:
        lines = ffmpeg.out.read().decode(errors="replace").splitlines()
        facts = dict(line[1:].split(" 0: ", 1) for line in lines if line.startswith("#") and " 0: " in line)
        ticks = [int(line.split(",")[2]) for line in lines if line and not line.startswith("#")]
        ffmpeg.require_success(len(ticks))
        said = ffmpeg.said()
    width, height = map(int, facts["dimensions"].split("x"))
    tick, words = Fraction(facts["tb"]), _words(said)
    notes = [_uneven(ticks, tick), _shape_notes(facts.get("sar", "1/1"), said), _pixel_notes(words)]
    return ClipInfo(height, width, len(ticks), _rate(ticks, tick, words), tuple(n for n in notes if n))


class _Ffmpeg:
    """One ffmpeg that decodes a file's first video stream; what it says goes to a file, so that no pipe fills up."""

    def __init__(self, path: Path, output: Sequence[str]):
        self._path = path
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  closed in __exit__
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-hide_banner", "-nostats", "-xerror", *CONTAINERS]
        # A file name is never an option or another protocol.
        command += ["-i", f"file:{path}", "-map", "0:v:0", "-fps_mode", "passthrough", *output, "-"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._log, bufsize=1 << 20
        )
        assert self._process.stdout is not None
        self.out = cast("BufferedReader", self._process.stdout)  # as bufsize makes it

    def __enter__(self) -> "_Ffmpeg":
        return self

    def __exit__(self, *_: object) -> None:
        self.out.close()
        self._process.kill()  # of no effect after its end; else nobody wants the rest
        self._process.wait()
        self._log.close()

    def said(self) -> str:
        """Everything that it wrote."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def require_success(self, frames: int) -> None:
        """Raises ValueError if the file was not read to its end, or there was nothing in it."""
        code, said = self._process.wait(), self.said()
        if code == 0 and frames and _CUT not in said:
            return
        if not self._path.exists():
            reason = "there is no such file"
        elif code == 0 and frames:
            reason = f"it is cut short: it ends after {frames} frames"
        elif frames:
            reason = f"damaged or cut short after {frames} frames: {_complaint(said)}"
        else:
            reason = f"{_complaint(said)} (what can be read: {READABLE})"
        raise ValueError(f"{self._path} cannot be read as a video: {one_line(reason, 240)}")


def _next_frame(stream: BufferedReader) -> Frame | None:
    """The next picture of a stream of binary PPMs; None at its end, or within a picture, which ffmpeg's exit tells."""
    if stream.readline().strip() != b"P6":
        return None
    width, height = map(int, stream.readline().split())
    stream.readline()  # the largest value, 255
    pixels = bytearray(height * width * 3)
    if stream.readinto(pixels) < len(pixels):
        return None
    return np.frombuffer(pixels, np.uint8).reshape(height, width, 3)


def _complaint(said: str) -> str:
    """The line in which ffmpeg says what is wrong: the first error after its description of the file."""
    if "matches no streams" in said or "'0:v:0' for option 'map'" in said:
        return "it has no video stream"
    lines = [re.sub(r" @ 0x[0-9a-f]+", "", line.strip()) for line in said.splitlines()]
    wrong = [x for x in lines if re.search(r"rror|nvalid|not found|corrupt|partial|prematurely|No such|denied", x)]
    return wrong[0] if wrong else "it holds no frame"


def _words(said: str) -> str:
    found = _STREAM.search(said)
    return found["words"] if found else ""


def _rate(ticks: list[int], tick: Fraction, words: str) -> float:
    """Frames a second: as the file states it, unless the frames' times say otherwise."""
    found = _RATE.search(words)
    stated = float(found[1].replace("k", "e3")) if found else 0.0
    if len(ticks) < 2 or ticks[-1] <= ticks[0]:
        return stated or 1.0
    seen = float((len(ticks) - 1) / ((ticks[-1] - ticks[0]) * tick))
    return stated if abs(stated - seen) < 0.01 * seen else seen


def _uneven(ticks: list[int], tick: Fraction) -> str:
    """In words, if frames are not evenly spaced; what a coarse clock rounds is even."""
    steps = [b - a for a, b in itertools.pairwise(ticks)]
    if not steps or max(steps) - min(steps) <= min(2, median(steps) / 4):
        return ""
    shortest, longest = (float(s * tick * 1000) for s in (min(steps), max(steps)))
    return f"times are uneven: frames are {shortest:.0f} to {longest:.0f} ms apart; measured frame for frame"


def _shape_notes(ratio: str, said: str) -> str:
    notes = []
    across, down = map(int, ratio.split("/"))
    if across and down and across != down:
        notes.append(f"pixels are not square ({across}:{down}); measured as they are stored")
    if turned := re.search(r"rotation of (-?[0-9.]+) degrees", said):
        notes.append(f"turned by {float(turned[1]):g} degrees, as players show it")
    return "; ".join(notes)


def _pixel_notes(words: str) -> str:
    format_ = re.split(r",\s*(?![^()]*\))", words)
    pixels = format_[1].strip() if len(format_) > 1 else ""
    notes = []
    if re.search(r"smpte2084|arib-std-b67", pixels):
        notes.append("HDR, read without tone mapping: its colours are not those of SDR clips")
    if _DEEP.search(pixels):
        notes.append("more than 8 bits, read as 8")
    if _ALPHA.search(pixels):
        notes.append("transparency is left out")
    if re.search(r"top |bottom ", pixels):
        notes.append("interlaced; fields are not separated")
    return "; ".join(notes)
