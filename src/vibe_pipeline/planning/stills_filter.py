"""The linear filter before a run: whether the stills are large enough for it, and what it costs on one core.

Seconds were measured on random 8-bit pictures, 704x1280 to 2176x3840, one core of a shared machine.
"""

from vibe_pipeline.diffusion.checkpoint import find_model
from vibe_pipeline.experiment.data import DataParams
from vibe_pipeline.experiment.model import ClipSize, ModelParams
from vibe_pipeline.experiment.tables import Experiment
from vibe_pipeline.generation.methods import method_of
from vibe_pipeline.images.buckets import make_buckets
from vibe_pipeline.images.patches import MOST_STILLS, patch_of

FRAME_SECONDS = 0.04
"""A megapixel of the large frame."""
STILL_SECONDS = 0.09
"""A megapixel of a still; with a blurred camera twice as much."""


def filtering_seconds(size: ClipSize) -> float:
    """All frames of a clip of this target size."""
    return FRAME_SECONDS * size.frames * size.height * size.width / 1e6


def fitted_stills(tables: Experiment, images: int) -> int:
    """How many stills the filter is fitted on; none where no arm is made with it."""
    return min(images, MOST_STILLS) if any(method_of(arm).uses_stills for arm in tables.arms.values()) else 0


def fitting_seconds(data: DataParams) -> float:
    """One still."""
    return (2 if data.camera_blur else 1) * STILL_SECONDS * data.high.height * data.high.width / 1e6


def check_filter(model: ModelParams, data: DataParams, tables: Experiment) -> None:
    """Refuse stills that are too small for the clips' enlargement, where an arm is made with their linear filter.

    Raises:
        ValueError: Names the arm and both sizes.
    """
    for name, arm in tables.arms.items():
        if method_of(arm).uses_stills:
            buckets = make_buckets(find_model(model.path), model.native, data)
            native, target = ((size.height, size.width) for size in (model.native, model.target))
            try:
                patch_of(native, target, [bucket.high for bucket in buckets])
            except ValueError as error:
                raise ValueError(f"arms.{name}: {error}") from None
