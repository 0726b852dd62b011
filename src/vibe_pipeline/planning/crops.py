"""How many tokens a step runs, of an adapter that learns crops or packed images."""

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


def images_of_sequence(architecture: Architecture, size: ClipSize, row: TrainParams) -> int:
    """Images of this size in what one item of a batch is: a packed sequence's, or 1.

    Raises:
        ValueError: The sequence is shorter than one image.
    """
    if row.packing is None:
        return 1
    height, width = architecture.grid(size)[1:]
    if height * width > row.packing.tokens:
        raise ValueError(f"packing.tokens {row.packing.tokens} is less than one image of {height * width} tokens")
    return row.packing.tokens // (height * width)
