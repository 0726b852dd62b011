"""What preflight asks of a training: sizes that attention, crops and cells divide, and latents that will be made."""

import math

from vibe_pipeline.diffusion.checkpoint import WanCheckpoint, find_model, require_fitting_size, token_grid
from vibe_pipeline.experiment.crop import CropParams
from vibe_pipeline.experiment.data import DataParams
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.experiment.tables import Experiment
from vibe_pipeline.generation.attention_sizes import require_fitting_attention, require_fitting_buckets
from vibe_pipeline.images.buckets import make_buckets


def check_training(data: DataParams, tables: Experiment) -> None:
    """Refuse buckets that an adapter's attention could not divide, and latents that would not be made.

    Raises:
        ValueError: Names the adapter and both numbers, or the setting that is missing.
    """
    for name, row in tables.adapters.items():
        if row.degrades and row.degradation.kind == "pixel_drawn" and data.pixel_draws is None:
            raise ValueError(
                f"adapters.{name}.degradation: kind pixel_drawn takes latents that only data.pixel_draws makes: "
                "set data.pixel_draws, {} will do"
            )
        if data.buckets == "aspect":
            require_fitting_buckets(data.bucket_tokens, row.attention, f"adapters.{name}")


def check_single_size(model: ModelParams, data: DataParams, tables: Experiment) -> None:
    """Refuse a training size that an adapter's attention or crop could not divide, where all images are cut to it.

    Images that are longer than the sequences they are to be packed into are refused too, of whatever buckets.

    Raises:
        ValueError: Names the adapter and the nearest sizes that fit.
    """
    _check_packing(model, data, tables)
    for name, row in tables.adapters.items():
        if row.crop is not None:
            _check_crop(find_model(model.path), data, row.crop, f"adapters.{name}")
        if data.buckets == "single":
            checkpoint = find_model(model.path)
            require_fitting_attention(checkpoint, data.high, row.attention, f"adapters.{name}: data.high")


def _check_packing(model: ModelParams, data: DataParams, tables: Experiment) -> None:
    """Refuse sequences that the largest image does not fit into."""
    rows = [(f"stage1.{name}", row.packing, "low") for name, row in tables.stage1.items()]
    rows += [(f"adapters.{name}", row.packing, "high") for name, row in tables.adapters.items()]
    for row, packing, part in rows:
        if packing is None:
            continue
        checkpoint = find_model(model.path)
        sizes = {getattr(bucket, part) for bucket in make_buckets(checkpoint, model.native, data)}
        most, size = max((math.prod(token_grid(checkpoint, *size)), size) for size in sizes)
        if most > packing.tokens:
            raise ValueError(
                f"{row}.packing.tokens {packing.tokens} is less than one image of {size[0]}x{size[1]}, {most} tokens: "
                f"raise it to {most} or more"
            )


def _check_crop(checkpoint: WanCheckpoint, data: DataParams, crop: CropParams, row: str) -> None:
    """Refuse a crop of half a token, one that is no smaller than the images, and cells that do not fit into them."""
    require_fitting_size(checkpoint, crop.height, crop.width, f"{row}.crop")
    high = data.high
    if crop.height > high.height or crop.width > high.width or (crop.height, crop.width) == (high.height, high.width):
        raise ValueError(
            f"{row}.crop {crop.height}x{crop.width} is not a part of data.high {high.height}x{high.width}: make it "
            "smaller, or leave crop out"
        )
    if crop.pool is None:
        return
    if data.buckets == "single":
        require_fitting_size(checkpoint, high.height, high.width, f"{row}.crop: data.high", (crop.pool, crop.pool))
    elif data.bucket_tokens % crop.pool:
        raise ValueError(
            f"{row}.crop.pool {crop.pool} does not divide data.bucket_tokens {data.bucket_tokens}: some buckets would "
            f"not fit; set bucket_tokens to a multiple of {crop.pool}"
        )
