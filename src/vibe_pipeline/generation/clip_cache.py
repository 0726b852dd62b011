"""Clips by content: what determines a clip is hashed into its name, and a manifest beside it says the rest.

A clip whose manifest carries the same key is not made again, so a killed run loses at most the batch in work.
"""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vibe_pipeline.experiment.model import ClipSize
from vibe_pipeline.io.files import read_json, require_space, write_json
from vibe_pipeline.io.keys import content_key, installed_version
from vibe_pipeline.io.video import read_frames, write_lossless, write_preview
from vibe_pipeline.runtime.deadline import require_time
from vibe_pipeline.runtime.progress import Progress

if TYPE_CHECKING:  # what reads clips and their sizes, as doctor does, needs no torch
    from torch import Tensor

log = logging.getLogger(__name__)

Rows = list[dict[str, Any]]
Frames = Iterable[NDArray[np.float32]]
Make = Callable[[Rows], "Tensor | Sequence[Frames]"]
"""Rows of prompts to pixels [B, 3, T, H, W], bytes or floats in [0, 1]; or, where no clip need be whole in memory, to
the frames [H, W, 3] of each, made while they are written."""

PACKAGES = ("vibe_pipeline", "torch", "diffusers", "transformers", "peft", "spandrel")
# What a manifest repeats from a clip's row, where the row has it.
FROM_ROW = ("prompt_index", "prompt", "seed", "first_frame", "native_key", "key")


@dataclass(frozen=True)
class Scale:
    """Size of the clips."""

    height: int
    width: int
    frames: int
    fps: float

    @classmethod
    def of(cls, size: ClipSize) -> "Scale":
        """From the parameters."""
        return cls(size.height, size.width, size.frames, size.fps)


@dataclass(frozen=True)
class ClipJob:
    """Clips to be made.

    Attributes:
        name: Of the arm, or `native` or `reference`.
        settings: Everything but the row that determines the pixels; hashed into the key.
        folder: Where they go.
        size: Of every clip.
        prepare: Loads models and gives the function that makes clips; entered only if any are missing, and left when
            the last is made or one failed: the models' memory is free again then.
        batch_size: Clips made together.
        notes: What else the manifest should say (sigmas, device): follows from the settings.
    """

    name: str
    settings: dict[str, Any]
    folder: Path
    size: Scale
    prepare: Callable[[], AbstractContextManager[Make]]
    batch_size: int
    notes: dict[str, Any] = field(default_factory=dict)


def make_clips(prompts: pd.DataFrame, job: ClipJob) -> pd.DataFrame:
    """Make the clips that are not there yet.

    Args:
        prompts: One row a clip: prompt_index, prompt, seed, and whatever `job.prepare` reads.
        job: What to make.

    Returns:
        `prompts` with key, path, preview_path, seconds, the wall time a clip took, and cpu_seconds, the processor time
        of all threads (NaN for clips that were made before it was recorded).

    Raises:
        OSError: The disk would not hold the missing clips.
    """
    rows: Rows = [row | _place(row, job) for row in prompts.to_dict("records")]
    missing = [row for row in rows if not _is_made(row)]
    require_space(job.folder, len(missing) * job.size.frames * job.size.height * job.size.width * 3)
    if missing:
        with job.prepare() as make:
            _make_missing(missing, len(rows), job, make)
    for row in rows:
        manifest = read_json(manifest_path(row))
        row |= {"seconds": manifest["seconds"], "cpu_seconds": manifest.get("cpu_seconds", math.nan)}
    return pd.DataFrame(rows)


def _make_missing(missing: Rows, total: int, job: ClipJob, make: Make) -> None:
    """Make batch by batch; one is written by a thread while the next is made, so that the device need not wait.

    Writing takes about a minute a clip at 1408x2560x121. Frames that are made while they are written take no thread.
    """
    there = total - len(missing)
    with (
        Progress[None](total=total, initial=there, desc=job.name, unit="clip") as bar,
        ThreadPoolExecutor(1) as writer,
    ):
        writing: Future[float] | None = None
        for batch in _batches(missing, job.batch_size):
            begun, busy = time.monotonic(), time.process_time()
            require_time(f"{bar.n} of {total} clips of {job.name}")
            made = make(batch)
            seconds = (time.monotonic() - begun) / len(batch)
            # No more than two clips are in memory; an error comes up here.
            written = writing.result() if writing is not None else 0.0
            writing = writer.submit(
                _keep, batch, made, job, seconds, (time.process_time() - busy - written) / len(batch)
            )
            if isinstance(made, Sequence):
                writing.result()
                writing = None
            bar.update(len(batch))
        if writing is not None:
            writing.result()


def manifest_path(row: dict[str, Any]) -> Path:
    """The manifest beside a clip."""
    return Path(row["path"]).with_suffix(".json")


def _place(row: dict[str, Any], job: ClipJob) -> dict[str, str]:
    key = content_key(
        job.settings, row["prompt"], row["seed"], row.get("native_key"), row.get("first_frame_sha256", "")
    )
    # The key is in the name, so that changing a setting back finds the clips that were made with it.
    stem = job.folder / f"{row['prompt_index']:04d}-{row['seed']}-{key[:8]}"
    return {"key": key, "path": f"{stem}.mp4", "preview_path": f"{stem}.preview.mp4"}


def _batches(rows: Rows, size: int) -> list[Rows]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def _is_made(row: dict[str, Any]) -> bool:
    path = Path(row["path"])
    if not (manifest_path(row).exists() and path.exists() and Path(row["preview_path"]).exists()):
        return False
    try:
        content = read_json(manifest_path(row))
    except ValueError as error:
        log.warning("%s", error)
        return False
    if not isinstance(content, dict) or not isinstance(content.get("seconds"), int | float):
        log.warning("%s is not the manifest of a clip; the clip is made again", manifest_path(row))
        return False
    return content.get("key") == row["key"] and content.get("bytes") == path.stat().st_size


class _Watched:
    """Frames as they come: counted, and the time that making them took."""

    def __init__(self, frames: Frames) -> None:
        self._frames = frames
        self.count, self.seconds, self.cpu_seconds = 0, 0.0, 0.0

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        frames = iter(self._frames)
        while True:
            begun, busy = time.monotonic(), time.process_time()
            frame = next(frames, None)
            self.seconds += time.monotonic() - begun
            self.cpu_seconds += time.process_time() - busy
            if frame is None:
                return
            self.count += 1
            yield frame


def _keep(batch: Rows, made: "Tensor | Sequence[Frames]", job: ClipJob, seconds: float, busy: float) -> float:
    """Write a batch's clips and manifests; the processor seconds that took this thread."""
    begun = time.thread_time()
    whole = not isinstance(made, Sequence)
    clips = made if isinstance(made, Sequence) else made.permute(0, 2, 3, 4, 1).numpy()
    for row, clip in zip(batch, clips, strict=True):
        frames = _Watched(clip)
        path = write_lossless(Path(row["path"]), frames, job.size.fps)
        if frames.count != job.size.frames:
            path.unlink()
            raise ValueError(f"{path} would have {frames.count} frames, not {job.size.frames} as the size asked for")
        write_preview(Path(row["preview_path"]), clip if whole else read_frames(path), job.size.fps)
        manifest = {
            "arm": job.name,
            **{k: row[k] for k in FROM_ROW if k in row},
            "size": asdict(job.size),
            "settings": job.settings,
            **job.notes,
            "seconds": seconds + frames.seconds,
            "cpu_seconds": busy + frames.cpu_seconds,
            "bytes": path.stat().st_size,
            "versions": {name: installed_version(name) for name in PACKAGES},
        }
        write_json(manifest_path(row), manifest)
    return time.thread_time() - begun
