"""How many tokens a step of an adapter that learns crops runs."""

from vibe_pipeline.diffusion.crops import TokenCrop
from vibe_pipeline.experiment.adapters import AdapterParams
from vibe_pipeline.experiment.model import ClipSize
from vibe_pipeline.experiment.training import TrainParams
from vibe_pipeline.planning.architecture import Architecture


def crop_tokens(architecture: Architecture, size: ClipSize, row: TrainParams) -> int | None:
    """Tokens of a crop and its context in an image of this size; None: a row that learns all of it.

    Raises:
        ValueError: The image does not divide by the cells.
    """
    if not isinstance(row, AdapterParams) or row.crop is None:
        return None
    crop = size.model_copy(update={"height": row.crop.height, "width": row.crop.width})
    patch = architecture.transformer["patch_size"]
    placed = TokenCrop(architecture.grid(crop)[1:], row.crop.pool, tuple(patch[1:]))
    return placed.tokens(architecture.grid(size)[1:])
