"""The family of measures that other work on 4K reports: of the pixels, in the one pass. All of them reward noise."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vibe_pipeline.evaluation.metrics.cooccurrence import TILE, grey_levels, tile_entropies
from vibe_pipeline.evaluation.metrics.gathering import Setting, Step
from vibe_pipeline.evaluation.metrics.remainder import FACTORS, enlarged_strips, shrunk
from vibe_pipeline.evaluation.metrics.resolution import Measure

EVERY = 5
"""One frame in so many is looked at where a frame costs much: neighbouring ones say nearly the same."""
QUALITY = 95


class Remainder:
    """Squared error of each frame against itself shrunk and enlarged, summed over the factors; bytes, 0 to 255."""

    def __init__(self, setting: Setting):
        self._sum, self._count = 0.0, 0

    def add(self, step: Step) -> None:
        """What it loses by shrinking and enlarging, by every factor."""
        picture = step.frame.raw
        height, width = picture.shape[:2]
        for factor in FACTORS:
            for rows, enlarged in enlarged_strips(shrunk(picture, factor), height, width):
                difference = (picture[rows] - enlarged).reshape(len(enlarged), -1)
                squares = np.vecdot(difference, difference).sum(dtype=np.float64)  # a row at a time is exact enough
                self._sum += float(squares) * (1 if picture.dtype == np.uint8 else 255**2)
        self._count += picture.size

    def mean(self) -> float:
        """Over pixels and frames."""
        return self._sum / self._count


class _SomeFrames:
    """Bytes of every :data:`EVERY` th frame, the first among them."""

    def __init__(self, setting: Setting):
        self._seen = 0

    def add(self, step: Step) -> None:
        if self._seen % EVERY == 0:
            raw: Any = step.frame.raw
            self._take(raw if raw.dtype == np.uint8 else np.rint(raw * 255).astype(np.uint8))
        self._seen += 1

    def _take(self, picture: NDArray[np.uint8]) -> None:
        raise NotImplementedError


class Cooccurrence(_SomeFrames):
    """Entropies of the tiles' co-occurrence matrices, mean over tiles."""

    def __init__(self, setting: Setting):
        super().__init__(setting)
        if min(setting.grid.shape) < TILE:
            raise ValueError(f"a tile is {TILE}x{TILE}; the frame is {'x'.join(map(str, setting.grid.shape))}")
        self._means: list[NDArray[np.float64]] = []

    def entropy(self) -> float:
        """Of the matrices, mean over frames."""
        return float(np.mean(self._means, axis=0)[0])

    def value_entropy(self) -> float:
        """Of the values in them, mean over frames."""
        return float(np.mean(self._means, axis=0)[1])

    def _take(self, picture: NDArray[np.uint8]) -> None:
        self._means.append(tile_entropies(grey_levels(picture)).mean(axis=0))


class JpegSize(_SomeFrames):
    """Bytes of the frames, plain and as JPEG."""

    def __init__(self, setting: Setting):
        super().__init__(setting)
        self._plain = self._packed = 0

    def ratio(self) -> float:
        """Plain over packed, over all frames together."""
        return self._plain / self._packed

    def _take(self, picture: NDArray[np.uint8]) -> None:
        packed = io.BytesIO()
        Image.fromarray(picture).save(packed, "JPEG", quality=QUALITY)  # Pillow's own 4:2:0, as in the source
        self._plain += picture.size
        self._packed += packed.tell()


@dataclass(frozen=True, kw_only=True)
class PeerMeasure(Measure):
    """One that others report, and this pipeline only where asked to."""

    family: str = "high_resolution"
    asked: bool = True


HIGH_RESOLUTION: tuple[PeerMeasure, ...] = (
    PeerMeasure(
        name="hd_mse",
        label="HD-MSE",
        explanation="What is lost when a frame is shrunk by 8, 16 and 32 and enlarged again: mean square error in grey "
        "levels, summed. UltraGen's measure of detail. It rewards noise: every grain counts as detail, in full.",
        direction="higher",
        part=Remainder,
        value=Remainder.mean,
        seconds=0.01,
    ),
    PeerMeasure(
        name="glcm_entropy",
        label="GLCM entropy",
        explanation="Entropy of how grey levels neighbour each other in tiles of 64 pixels, bits (0 to 12), of every "
        "fifth frame: Diffusion-4K's texture, as its paper defines it. It rewards noise, which has the highest of all.",
        direction="higher",
        part=Cooccurrence,
        value=Cooccurrence.entropy,
        seconds=0.02,
    ),
    PeerMeasure(
        name="glcm_score",
        label="GLCM score",
        explanation="The same as Diffusion-4K's code prints it: the entropy of the values in the matrices, not of the "
        "matrices; only for comparing with its figures. It rewards noise.",
        direction="higher",
        part=Cooccurrence,
        value=Cooccurrence.value_entropy,
        seconds=0.02,
    ),
    PeerMeasure(
        name="jpeg_ratio",
        label="JPEG ratio",
        explanation="How many times smaller every fifth frame is as JPEG of quality 95: lower is richer "
        "(Diffusion-4K). It rewards noise, which packs worst.",
        direction="lower",
        part=JpegSize,
        value=JpegSize.ratio,
        seconds=0.002,
    ),
)
