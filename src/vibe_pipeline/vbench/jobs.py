"""What is scored and what comes of it, as passed between processes; needs only the standard library."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Settings:
    """What an engine works with: VBench's folder of weights, a folder of its own, torch's name of the device, and
    the longest side in pixels that RAFT and AMT see (None: frames as stored)."""

    cache_dir: str
    work_dir: str
    device: str = "cpu"
    flow_side: int | None = None


@dataclass(frozen=True)
class ScoringJob:
    """A clip to score.

    Attributes:
        clip: What the results are told apart by.
        path: An mp4.
        prompt: What it was generated from.
        dimensions: Which to score.
        frames: That its row in the table says it has; VBench would score a truncated clip on what it finds.
        height: Pixels, as its row says.
        width: Pixels, as its row says.
        labels: Dimension to VBench's labels for the prompt, where it has some.
    """

    clip: str
    path: str
    prompt: str
    dimensions: tuple[str, ...]
    frames: int
    height: int
    width: int
    labels: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """One score: `value` on the scale of VBench's totals, None if it found nothing to score, or `error`; `whole` if
    the dimension cannot run at all."""

    clip: str
    dimension: str
    value: float | None
    error: str = ""
    whole: bool = False
    seconds: float = 0.0


def not_started(jobs: Sequence[ScoringJob], error: Exception) -> Iterator[Result]:
    """What comes of jobs where VBench itself cannot be started: each dimension failed as a whole."""
    said = ": ".join([type(error).__name__, *str(error).splitlines()[:1]])
    for job in jobs:
        for name in job.dimensions:
            yield Result(job.clip, name, None, f"failed, because VBench cannot be started: {said}", whole=True)
