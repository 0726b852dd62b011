"""Measures that a network makes of full-size frames: what such an entry is, which frames it sees, what it lacks."""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from vibe_pipeline.io.metric import Metric
from vibe_pipeline.vbench.prompts import INSTALL
from vibe_pipeline.vbench.readiness import FETCH
from vibe_pipeline.vbench.weight_files import Weight

Frame = NDArray[np.uint8]
FRAMES = 16  # evenly spaced; a 4K frame has 40 tiles


class Watcher(Protocol):
    """What a network makes of one clip while its frames go by."""

    def take(self, frame: Frame) -> None:
        """The next of the frames that it wants, RGB [H, W, 3]."""

    def result(self) -> NDArray[np.floating]:
        """What is kept of the clip.

        Raises:
            ValueError: The clip does not have what is measured; the message says why.
        """


@dataclass(frozen=True)
class Lack:
    """Why a measure cannot be made, and the command or the setting that mends it."""

    reason: str
    fix: str


@dataclass(frozen=True, kw_only=True)
class Network(Metric):
    """A metric that a network makes.

    Attributes:
        weights: Its files, below the folder that `folder` names.
        folder: The field of `folders` with the folder of its files.
        command: What fetches them, if not `fetch-weights --measures`.
        load: From the files and torch's name of a device to its watchers, one a clip.
        settings: What else changes its results: part of the key under which they are kept.
        frames: How many of a clip it looks at, evenly spaced; None: all.
        consecutive: They are frames in a row, the first ones; of a real clip from a start that its content draws.
        side: Pixels of the square that a frame is shrunk to as it comes; None: it stays as large as it is.
        teraflops: Of a megapixel of a frame that it looks at.
    """

    family: str = "high_resolution"
    weights: tuple[Weight, ...]
    folder: str = "measure_weights"
    command: str = ""
    packages: tuple[str, ...] = ("torchvision",)
    load: Callable[[Sequence[Path], str], Callable[[], Watcher]]
    settings: tuple[Any, ...] = ()
    frames: int | None = FRAMES
    consecutive: bool = False
    side: int | None = None
    teraflops: float = 0.0

    def files(self, folder: Path) -> list[Path]:
        """Where its weights are looked for."""
        return [folder / weight.path for weight in self.weights]

    def wanted(self, total: int, drawn_by: str = "") -> list[int]:
        """Which of a clip's frames it looks at; `drawn_by` is the key of a real clip."""
        if not self.consecutive or self.frames is None:
            return spaced(total, self.frames)
        room = max(total - self.frames, 0)
        first = crc32(drawn_by.encode()) % (room + 1) if drawn_by else 0
        return list(range(first, min(first + self.frames, total)))

    def lack(self, folder: Path, env_option: str = "") -> Lack | None:
        """What of its packages and files is not here; `env_option` is put behind the command that fills `folder`."""
        for package in self.packages:
            if importlib.util.find_spec(package) is None:
                return Lack(f"skipped, because the package {package} is not installed", INSTALL)
        absent = [file for file in self.files(folder) if not (file.is_file() and file.stat().st_size)]
        if not absent:
            return None
        names = " and ".join(file.name for file in absent)
        folders = " and ".join(dict.fromkeys(str(file.parent) for file in absent))
        verb, them = ("is", "it") if len(absent) == 1 else ("are", "them")
        command = (self.command or f"{FETCH} --measures {self.name}") + env_option
        said = f"skipped, because {names} {verb} not at {folders}; get {them} with `{command}`"
        return Lack(said, command)


@dataclass(frozen=True, kw_only=True)
class FrameNetwork(Network):
    """A clip's score: the mean of the scores of the frames that are looked at."""


class FrameMean:
    """The mean of what `score` gives of each frame."""

    def __init__(self, score: Callable[[Frame], float]):
        self._score, self._values = score, list[float]()

    def take(self, frame: Frame) -> None:
        """Score it at once."""
        self._values.append(self._score(frame))

    def result(self) -> NDArray[np.floating]:
        """The mean.

        Raises:
            ValueError: There was no frame.
        """
        if not self._values:
            raise ValueError("no frames to score")
        return np.asarray(np.mean(self._values))


def spaced(total: int, wanted: int | None) -> list[int]:
    """Which of `total` frames are looked at: evenly spaced, the first and the last among them."""
    return np.linspace(0, total - 1, min(total, wanted or total)).round().astype(int).tolist()
