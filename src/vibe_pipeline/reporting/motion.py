"""Where to look in a clip: the edge of what moves, frame by frame, else where there is most detail."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Grey = NDArray[np.float32]

SEEN_WIDTH = 128
"""Frames are looked at this wide, in pixels: an edge that moves is found on a small copy as well."""
STILL = 6.0
"""Grey levels: what changes less from frame to frame is noise."""


@dataclass(frozen=True)
class Focus:
    """A place for each frame, (x, y) in percent of width and height; `moves`: it follows something that moves."""

    points: tuple[tuple[float, float], ...]
    moves: bool

    @property
    def middle(self) -> tuple[float, float]:
        """The place in the middle frame."""
        return self.points[len(self.points) // 2]


def find_focus(frames: Iterable[NDArray[np.uint8]]) -> Focus:
    """Where to enlarge a clip.

    Edges that change between neighbouring frames are what moves; from the middle frame on, the strongest of them near
    the last place is followed both ways, so that the place does not jump between two edges. Where nothing moves it is
    the most detailed place of the middle frame.

    Args:
        frames: RGB uint8 [height, width, 3], one at a time.

    Raises:
        ValueError: There is no frame.
    """
    grey = np.stack([_small(frame) for frame in frames])
    edges = np.stack([_edges(frame) for frame in grey])
    change = np.abs(np.diff(grey, axis=0))
    moving = np.zeros_like(grey)
    moving[1:] += np.where(change > STILL, change, 0)
    moving[:-1] += np.where(change > STILL, change, 0)
    energy = moving * edges
    if not energy.any():
        place = _percent(_peak(_smoothed(edges[len(edges) // 2])), grey.shape[1:])
        return Focus((place,) * len(grey), moves=False)
    return Focus(tuple(_percent(at, grey.shape[1:]) for at in _followed(energy)), moves=True)


def _small(frame: NDArray[np.uint8]) -> Grey:
    height, width = frame.shape[:2]
    size = (min(SEEN_WIDTH, width), max(1, round(height * min(1.0, SEEN_WIDTH / width))))
    return np.asarray(Image.fromarray(frame).convert("L").resize(size, Image.Resampling.BOX), np.float32)


def _edges(grey: Grey) -> Grey:
    """Summed absolute differences to the neighbours above and to the left."""
    found = np.zeros_like(grey)
    found[1:] += np.abs(np.diff(grey, axis=0))
    found[:, 1:] += np.abs(np.diff(grey, axis=1))
    return found


def _smoothed(energy: Grey) -> Grey:
    """Sums over a window of an eighth of the frame around each pixel."""
    reach = [max(1, side // 16) for side in energy.shape]
    padded = np.pad(energy, [(r, r) for r in reach])
    total = np.pad(padded.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    tall, wide = (2 * r + 1 for r in reach)
    return total[tall:, wide:] - total[:-tall, wide:] - total[tall:, :-wide] + total[:-tall, :-wide]


def _followed(energy: Grey) -> list[tuple[int, int]]:
    """(row, column) for each frame, from the liveliest frame outwards."""
    smooth = [_smoothed(frame) for frame in energy]
    start = max(range(len(smooth)), key=lambda i: float(smooth[i].max()))
    found = {start: _peak(smooth[start])}
    for order in (range(start + 1, len(smooth)), range(start - 1, -1, -1)):
        last = found[start]
        for i in order:
            near = smooth[i] * _nearness(smooth[i].shape, last)
            last = _peak(near) if near.max() > 1e-3 * smooth[start].max() else last
            found[i] = last
    return [found[i] for i in range(len(smooth))]


def _nearness(shape: tuple[int, ...], place: tuple[int, int]) -> Grey:
    """A bell around a place, an eighth of the frame wide."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    far = ((rows - place[0]) / (shape[0] / 8)) ** 2 + ((columns - place[1]) / (shape[1] / 8)) ** 2
    return np.exp(-far / 2).astype(np.float32)


def _peak(energy: Grey) -> tuple[int, int]:
    row, column = np.unravel_index(int(energy.argmax()), energy.shape)
    return int(row), int(column)


def _percent(place: tuple[int, int], shape: tuple[int, ...]) -> tuple[float, float]:
    row, column = place
    return round(100 * (column + 0.5) / shape[1], 1), round(100 * (row + 0.5) / shape[0], 1)
