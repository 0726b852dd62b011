"""What preflight asks of a training: sizes that attention, crops and cells divide, latents, noise levels."""

import math

from vibe_pipeline.diffusion.checkpoint import WanCheckpoint, find_model, require_fitting_size, token_grid
from vibe_pipeline.experiment.adapters import AdapterParams
from vibe_pipeline.experiment.crop import CropParams
from vibe_pipeline.experiment.data import DataParams
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.experiment.tables import Experiment
from vibe_pipeline.experiment.training import TrainParams
from vibe_pipeline.generation.attention_sizes import (
    require_fitting_attention,
    require_fitting_buckets,
    require_fitting_layers,
)
from vibe_pipeline.images.buckets import make_buckets
from vibe_pipeline.planning.expert_loads import level_share

LEAST_SHARE = 0.05
"""Of a training's noise levels must lie where its expert works: else the row means another one."""


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


def check_levels(model: ModelParams, tables: Experiment) -> None:
    """Refuse a training of the low-noise expert at levels that it never sees; of a base of one, nothing.

    Draws are taken below the boundary (`training.job.TrainingJob.below`), so what is left to refuse is a row whose
    distribution lies above, and a bridge, whose way cannot be cut.

    Raises:
        ValueError: Names the row, the field and the boundary.
    """
    boundary = find_model(model.path).boundary
    if boundary is None:
        return
    for table, rows in (("stage1", tables.stage1), ("adapters", tables.adapters)):
        for name, row in rows.items():
            if isinstance(row, AdapterParams) and row.bridge is not None:
                _check_bridge(row, boundary, f"adapters.{name}")
            else:
                _check_share(row, boundary, f"{table}.{name}")


def _check_share(row: TrainParams, boundary: float, name: str) -> None:
    share = level_share(row, boundary)
    if share < LEAST_SHARE:
        raise ValueError(
            f"{name}: {1 - share:.1%} of its noise levels (sigma_sampling {row.sigma_sampling}, sigma_shift "
            f"{row.sigma_shift:g}) lie above the base's boundary_ratio {boundary:g}, and the low-noise expert, which "
            "is trained, works below it: lower sigma_shift or logit_mean"
        )


def _check_bridge(row: AdapterParams, boundary: float, name: str) -> None:
    """A bridge is learned whole, at the levels that it is named for, and at no other objective's."""
    way_out = f"the base's low-noise expert, which is trained, works below boundary_ratio {boundary:g}"
    if "literal" in row.bridges:
        raise ValueError(f"{name}.objective: bridge_literal names levels up to 1, and {way_out}: use bridge")
    if others := sorted(set(row.objective) - {"bridge"}):
        raise ValueError(
            f"{name}.objective: beside a bridge {others[0]} would be drawn up to sigma 1, and {way_out}: train each in "
            "a row of its own"
        )
    if row.bridge is not None and (start := row.bridge.sigmas[1]) >= boundary:
        raise ValueError(f"{name}.bridge: its way starts as high as sigma {start:.3g}, and {way_out}: start lower")


def check_single_size(model: ModelParams, data: DataParams, tables: Experiment) -> None:
    """Refuse a training size that an adapter's attention or crop could not divide, where all images are cut to it.

    Of whatever buckets, images that are longer than the sequences they are to be packed into are refused too, a blur of
    latents as small as its window's reach, and attention of blocks that the base does not have.

    Raises:
        ValueError: Names the adapter and the nearest sizes that fit.
    """
    _check_packing(model, data, tables)
    for name, row in tables.adapters.items():
        require_fitting_layers(find_model(model.path), row.attention, f"adapters.{name}")
        if row.degrades and row.degradation.kind == "blur":
            _check_blur(model, data, row.degradation.kernel, f"adapters.{name}.degradation.kernel")
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


def _check_blur(model: ModelParams, data: DataParams, kernel: int, field: str) -> None:
    """Refuse a window that reaches across the smallest of the latents, whose edges are mirrored."""
    checkpoint = find_model(model.path)
    sides = [min(bucket.high) for bucket in make_buckets(checkpoint, model.native, data)]
    least = min(sides) // checkpoint.config_of("vae")["scale_factor_spatial"]
    if kernel // 2 >= least:
        raise ValueError(
            f"{field} {kernel} is too large for latents of {least} cells, whose edges are mirrored: lower it to "
            f"{2 * least - 1} or less"
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
