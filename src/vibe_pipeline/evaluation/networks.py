"""Networks over an arm's clips: in the walk over frames that the other measures make, kept a clip at a time."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vibe_pipeline.evaluation.metrics.asked import asked_for, lack_of
from vibe_pipeline.evaluation.metrics.distributions import Distribution
from vibe_pipeline.evaluation.metrics.networks import Frame, FrameNetwork, Network, Watcher
from vibe_pipeline.evaluation.metrics.patches import PATCH_QUALITY
from vibe_pipeline.evaluation.whole_arm import resamples_as_text
from vibe_pipeline.experiment.evaluation import EvaluationParams
from vibe_pipeline.experiment.folders import Folders
from vibe_pipeline.io.clip_files import real_clip_files
from vibe_pipeline.io.files import write_atomic
from vibe_pipeline.io.keys import content_key
from vibe_pipeline.io.score_table import Place, score_row, score_table
from vibe_pipeline.io.video import read_frames
from vibe_pipeline.vbench.kept_scores import ScoreStore, weights_fingerprint

log = logging.getLogger(__name__)


@dataclass
class Look:
    """One network at one clip.

    Attributes:
        watcher: What it makes of frames.
        wanted: Their indices.
        keep: Stores the result.
        problem: Why there is none.
    """

    watcher: Watcher
    wanted: frozenset[int]
    keep: Callable[[NDArray[np.floating]], None]
    problem: str = ""

    def see(self, index: int, frame: Frame) -> None:
        """Take the frame if it is wanted."""
        if index in self.wanted and not self.problem:
            try:
                self.watcher.take(frame)
            except ValueError as error:
                self.problem = str(error)

    def end(self) -> None:
        """Store what was made of the clip."""
        if self.problem:
            return
        try:
            self.keep(self.watcher.result())
        except ValueError as error:
            self.problem = str(error)


@dataclass
class Looks:
    """All networks that still have to see a clip; whoever walks over its frames feeds them."""

    path: Path
    of: dict[str, Look] = field(default_factory=dict)
    ended: bool = False

    def during(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """The same frames, seen by the networks as they go by."""
        for index, frame in enumerate(frames):
            for look in self.of.values():
                look.see(index, frame)
            yield frame
        self.end()

    def end(self) -> None:
        """Store results, once."""
        if not self.ended:
            self.ended = True
            for look in self.of.values():
                look.end()

    def finish(self) -> None:
        """Walk over the clip, unless somebody has."""
        if self.of and not self.ended:
            for _ in self.during(read_frames(self.path)):
                pass


class Kept:
    """What networks made of clips, on disk: by the clip's content, the weights and what else changes results.

    Args:
        folders: Where weights are, and what is kept of clips.
    """

    def __init__(self, folders: Folders):
        self._folders = folders
        self._scores = ScoreStore(folders.measured / "patches")
        self._versions: dict[str, str] = {}

    def files(self, entry: Network) -> list[Path]:
        """Weights of an entry."""
        return entry.files(getattr(self._folders, entry.folder))

    def read(self, entry: Network, key: str) -> NDArray[np.floating] | None:
        """The result for the clip of that key, if it is there and whole."""
        if isinstance(entry, FrameNetwork):
            value = self._scores.read(key).get((entry.name, self._version(entry)))
            return None if value is None else np.asarray(value)
        try:
            return np.load(self._features(entry, key))
        except (OSError, ValueError, EOFError):  # made again
            return None

    def add(self, entry: Network, key: str, value: NDArray[np.floating]) -> None:
        """Keep a result."""
        if isinstance(entry, FrameNetwork):
            self._scores.add(key, entry.name, self._version(entry), float(value), np.nan)
        else:
            write_atomic(self._features(entry, key), lambda path: _save(path, value))

    def _version(self, entry: Network) -> str:
        if entry.name not in self._versions:
            fingerprint = weights_fingerprint(self.files(entry))
            self._versions[entry.name] = content_key(entry.name, *entry.settings, fingerprint)
        return self._versions[entry.name]

    def _features(self, entry: Network, key: str) -> Path:
        return self._folders.measured / "features" / f"{content_key('features', self._version(entry), key)}.npy"


def _save(path: Path, value: NDArray[np.floating]) -> None:
    with path.open("wb") as file:  # a name would get .npy put behind it
        np.save(file, value)


class Networks:
    """The networks that a run asks for.

    Args:
        evaluation: Which, and the folder of real clips.
        folders: Where their files are, and where each clip's results are kept as soon as they are there.
        device: What torch calls it.

    Attributes:
        given: These three, for a process that looks at other clips.
    """

    def __init__(self, evaluation: EvaluationParams, folders: Folders, device: str):
        asked = [metric for metric in asked_for(evaluation.extra_measures) if isinstance(metric, Network)]
        self._entries: list[Network] = [PATCH_QUALITY, *asked]
        self.given = evaluation, folders, device
        self._evaluation, self._device, self._kept = evaluation, device, Kept(folders)
        self._lacks = {entry.name: lack_of(entry, evaluation, folders) for entry in self._entries}
        self._ready = [entry for entry in self._entries if not self._lacks[entry.name]]
        self._made: dict[str, Callable[[], Watcher]] = {}
        self._problems: dict[tuple[str, str], str] = {}

    def looks(self, clip: Any) -> Looks:
        """What has yet to be seen of a clip (a row with key, path and frames)."""
        wanted = [entry for entry in self._ready if self._kept.read(entry, clip.key) is None]
        return self._looks_of(wanted, clip.key, Path(clip.path), clip.frames if wanted else 0)

    def took(self, clip: Any, looks: Looks) -> None:
        """Note why a clip that was seen has no result."""
        self._problems |= {(name, clip.key): look.problem for name, look in looks.of.items() if look.problem}

    def rows(self, arm: str, clips: pd.DataFrame) -> pd.DataFrame:
        """Rows of an arm whose clips were seen: one a clip, one an arm, or one that says why it is skipped."""
        rows: list[dict[str, object]] = []
        for entry in self._entries:
            if lack := self._lacks[entry.name]:
                rows.append(score_row(Place(arm), entry, status="skipped", reason=lack.reason))
            elif isinstance(entry, Distribution):
                rows.append(self._arm_row(arm, entry, clips))
            else:
                rows += [self._clip_row(arm, entry, clip) for clip in clips.itertuples(index=False)]
        return score_table(rows)

    def _clip_row(self, arm: str, entry: Network, clip: Any) -> dict[str, object]:
        place, kept = Place(arm, clip.prompt_index, clip.seed), self._kept.read(entry, clip.key)
        if kept is None:
            reason = self._problems.get((entry.name, clip.key), "its frames were not seen")
            return score_row(place, entry, status="failed", reason=reason)
        return score_row(place, entry, float(kept), seen=f"{clip.height}x{clip.width}")

    def _arm_row(self, arm: str, entry: Distribution, clips: pd.DataFrame) -> dict[str, object]:
        """The row of a measure of all clips; a clip that has no features leaves it without one."""
        own = [(clip, self._kept.read(entry, clip.key)) for clip in clips.itertuples(index=False)]
        if absent := [clip.key for clip, kept in own if kept is None]:
            first = self._problems.get((entry.name, absent[0]), "its frames were not seen")
            return score_row(
                Place(arm), entry, status="failed", reason=f"{len(absent)} of {len(own)} clips have none: {first}"
            )
        features, prompts = [kept for _, kept in own if kept is not None], [int(clip.prompt_index) for clip, _ in own]
        said = self._evaluation.confidence, self._evaluation.seed
        try:
            figure = entry.figure(features, prompts, self._real(entry) if entry.real else [], *said)
        except ValueError as error:
            return score_row(Place(arm), entry, status="failed", reason=str(error))
        log.info("%s: %s is %.4g, %s", arm, entry.label, figure.value, figure.note)
        row = score_row(Place(arm), entry, figure.value, reason=figure.note)
        kept_draws = resamples_as_text(sorted(set(prompts)), self._evaluation.seed, figure.resamples)
        return row | {"low": figure.low, "high": figure.high, "resamples": kept_draws}

    def _real(self, entry: Distribution) -> list[NDArray[np.floating]]:
        """Features of the real clips, made once and kept."""
        found: list[NDArray[np.floating]] = []
        for file in real_clip_files(self._evaluation.real_clips) if self._evaluation.real_clips else ():
            key = weights_fingerprint([file])
            kept = self._kept.read(entry, key)
            if kept is None:
                looks = self._looks_of([entry], key, file, sum(1 for _ in read_frames(file)), drawn_by=key)
                looks.finish()
                if problem := looks.of[entry.name].problem:
                    raise ValueError(f"evaluation.real_clips: {file}: {problem}")
                kept = self._kept.read(entry, key)
                assert kept is not None  # it was written just now
            found.append(kept)
        return found

    def _looks_of(self, entries: Sequence[Network], key: str, path: Path, frames: int, drawn_by: str = "") -> Looks:
        made = {entry.name: self._watcher(entry) for entry in entries}
        return Looks(
            path,
            {
                entry.name: Look(
                    made[entry.name],
                    frozenset(entry.wanted(frames, drawn_by)),
                    partial(self._kept.add, entry, key),
                )
                for entry in entries
            },
        )

    def _watcher(self, entry: Network) -> Watcher:
        if entry.name not in self._made:
            self._made[entry.name] = entry.load(self._kept.files(entry), self._device)
        return self._made[entry.name]()
