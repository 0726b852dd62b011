"""`upsample`: the native clip, enlarged by bicubic interpolation; what any second pass has to beat.

With `sharpen` an unsharp mask follows.
"""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.generation.clip_cache import Make, Rows
from vibe_pipeline.generation.methods.base import ArmJob, Method
from vibe_pipeline.generation.methods.sharpening import sharpen_words, sharpened
from vibe_pipeline.io.video import read_clip

if TYPE_CHECKING:
    from torch import Tensor


class Upsample(Method):
    """No model."""

    name = "upsample"
    uses_device = False
    takes_clips = True
    bound = "floor"
    own_fields = frozenset({"sharpen"})

    def describe(self, arm: ArmParams) -> str:
        """Enlarged, and how it is sharpened."""
        said = "no model: the native clip, enlarged"
        return said if arm.sharpen is None else f"{said} · {sharpen_words(arm)}"

    def prepare(self, job: ArmJob) -> AbstractContextManager[Make]:
        """Nothing is loaded."""
        from vibe_pipeline.images.resize import enlarge

        def make(rows: Rows) -> "Tensor":
            return sharpened(enlarge(_native_pixels(rows), job.size.height, job.size.width), job)

        return nullcontext(make)


def _native_pixels(rows: Rows) -> "Tensor":
    import torch

    return torch.stack([torch.from_numpy(read_clip(Path(r["native_path"]))).permute(3, 0, 1, 2) for r in rows])
