"""A clip in pieces that are refined one after the other, and the pieces as one clip again."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vibe_pipeline.io.video import read_frames

OVERLAP = 8


@dataclass(frozen=True)
class Piece:
    """Consecutive frames of a clip that are refined together, `start` to `stop`."""

    start: int
    stop: int

    @property
    def frames(self) -> int:
        """Its length as the VAE takes it, 4k + 1: the last frame is repeated where there are fewer."""
        return -(-(self.stop - self.start - 1) // 4) * 4 + 1


def cut(frames: int, longest: int) -> list[Piece]:
    """A clip's frames in as few pieces of `longest` as let each overlap the next by 8, or a quarter of a short one."""
    if frames <= longest:
        return [Piece(0, frames)]
    overlap = _overlap(longest)
    count = -(-(frames - overlap) // (longest - overlap))
    starts = [round(i * (frames - longest) / (count - 1)) for i in range(count)]
    return [Piece(start, start + longest) for start in starts]


def _overlap(longest: int) -> int:
    return min(OVERLAP, longest // 4)


def joined(pieces: list[Piece], paths: list[Path]) -> Iterator[NDArray[np.uint8]]:
    """The frames of a clip from those of its pieces; each piece fades into the next where that begins."""
    fade = _overlap(pieces[0].stop - pieces[0].start)
    faded: Iterator[NDArray[np.uint8]] = iter(())
    for index, (piece, path) in enumerate(zip(pieces, paths, strict=True)):
        frames = read_frames(path)
        for number, before in enumerate(faded, start=1):
            weight = number / (fade + 1)
            yield np.rint((1 - weight) * before + weight * next(frames)).astype(np.uint8)
        begun = piece.start + (fade if index else 0)
        stop = pieces[index + 1].start if index + 1 < len(pieces) else piece.stop
        yield from islice(frames, stop - begun)
        faded = islice(frames, fade) if index + 1 < len(pieces) else iter(())
