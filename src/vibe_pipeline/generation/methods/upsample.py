"""`upsample`: the native clip, enlarged by bicubic interpolation; what any second pass has to beat."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.generation.clip_cache import Make, Rows
from vibe_pipeline.generation.methods.base import ArmJob, Method
from vibe_pipeline.io.video import read_clip

if TYPE_CHECKING:
    from torch import Tensor


class Upsample(Method):
    """No model."""

    name = "upsample"
    uses_device = False
    takes_clips = True
    bound = "floor"

    def describe(self, arm: ArmParams) -> str:
        """The same for every row."""
        return "no model: the native clip, enlarged"

    def prepare(self, job: ArmJob) -> AbstractContextManager[Make]:
        """Nothing is loaded."""
        from vibe_pipeline.images.resize import enlarge

        return nullcontext(lambda rows: enlarge(_native_pixels(rows), job.size.height, job.size.width))


def _native_pixels(rows: Rows) -> "Tensor":
    import torch

    return torch.stack([torch.from_numpy(read_clip(Path(r["native_path"]))).permute(3, 0, 1, 2) for r in rows])
