"""A way of your own to make clips: here the native clip, each pixel repeated.

In the project such a class is one file in `src/vibe_pipeline/generation/methods/` and one name in the METHODS of its
`__init__.py`; a row of `arms` then says `method: nearest`, and graph, keys, plan, checks, scores and report follow.
"""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.generation.clip_cache import Make, Rows
from vibe_pipeline.generation.methods.base import ArmJob, Method
from vibe_pipeline.io.video import read_clip


class Nearest(Method):
    """No model."""

    name = "nearest"
    uses_device = False

    def describe(self, arm: ArmParams) -> str:
        """The report's line."""
        return "no model: every pixel of the native clip repeated"

    def prepare(self, job: ArmJob) -> AbstractContextManager[Make]:
        """What makes pixels [B, 3, frames, height, width] in [0, 1] of rows of prompts; nothing is loaded."""

        def make(rows: Rows) -> torch.Tensor:
            clips = [torch.from_numpy(read_clip(Path(row["native_path"]))).permute(3, 0, 1, 2) for row in rows]
            size = (job.size.frames, job.size.height, job.size.width)
            return torch.nn.functional.interpolate(torch.stack(clips), size=size, mode="nearest")

        return nullcontext(make)
