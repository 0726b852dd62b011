"""`linear`: the best linear filter, fitted on nothing but stage 2's own stills; the bar that a restorer has to clear.

What it brings back, any sharpening with the right gains could. Only what lies above it was restored by knowing what
pictures look like. Its gains are fitted for the run's own enlargement, so it takes no clip of another size.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.generation.clip_cache import Make
from vibe_pipeline.generation.methods.base import ArmJob, Method, Workload
from vibe_pipeline.io.manifests import FilterManifest
from vibe_pipeline.io.video import read_frames

if TYPE_CHECKING:
    from vibe_pipeline.diffusion.linear_filter import LinearFilter


class Linear(Method):
    """No model; one frame in memory at a time."""

    name = "linear"
    uses_device = False
    uses_stills = True

    def describe(self, arm: ArmParams) -> str:
        """The same for every row."""
        return "no model: the native clip through the best linear filter (Wiener), fitted on the training stills"

    def settings(self, job: ArmJob) -> dict[str, Any]:
        """The filter by its content."""
        return {"linear_filter": _filter_of(job).key}

    @contextmanager
    def prepare(self, job: ArmJob) -> Iterator[Make]:
        """The gains at the frequencies of the target."""
        from vibe_pipeline.images.stills_filter import read_filter

        native, target = job.model.native, job.model.target
        fitted = read_filter(_filter_of(job), (native.height, native.width), (target.height, target.width))
        yield lambda rows: [filtered(Path(row["native_path"]), fitted) for row in rows]

    def workload(self, arm: ArmParams, steps: int, guided: int | None = None) -> Workload:
        """Every frame, on a processor."""
        return Workload(filtered=True)


def filtered(clip: Path, fitted: "LinearFilter") -> Iterator[NDArray[np.float32]]:
    """The frames of a native clip through the filter, [H, W, 3] in [0, 1], one at a time."""
    for frame in read_frames(clip):
        yield fitted(frame.astype(np.float32) / 255).clip(0, 1)


def _filter_of(job: ArmJob) -> FilterManifest:
    """The filter that the run fitted.

    Raises:
        ValueError: None was.
    """
    if job.linear_filter is None:
        raise ValueError(f"arms.{job.name}: method linear needs the filter that the node fit_linear_filter makes")
    return job.linear_filter
