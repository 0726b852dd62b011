"""Sizes that an attention kind can cut into its parts: what is asked of a row's kind before anything runs."""

import math
from collections.abc import Mapping

from vibe_pipeline.diffusion.attention import AttentionSettings, attention_words, kind_of
from vibe_pipeline.diffusion.checkpoint import WanCheckpoint, clip_grid, require_fitting_size, token_grid
from vibe_pipeline.diffusion.rope import rope_of
from vibe_pipeline.experiment.arms import ArmParams, StageParams
from vibe_pipeline.experiment.model import ClipSize, ModelParams
from vibe_pipeline.generation.methods import method_of


def require_fitting_sizes(model: WanCheckpoint, params: ModelParams, arms: Mapping[str, ArmParams]) -> None:
    """Refuse a native or a target size that the VAE, the patches or a pass of a row cannot take.

    Args:
        model: Its VAE and patches say how many tokens a size has.
        params: The native and the target size.
        arms: Rows by name; those that run no transformer take every size that the VAE takes.

    Raises:
        ValueError: Names the field or the row, the size and the nearest that fit.
    """
    time = model.config_of("vae")["scale_factor_temporal"]
    if (params.native.frames - 1) % time:
        raise ValueError(f"model.native.frames {params.native.frames}: this VAE takes {time} k + 1 frames")
    require_fitting_size(model, params.native.height, params.native.width, "model.native")
    require_fitting_size(model, params.target.height, params.target.width, "model.target")
    for name, arm in arms.items():
        if method_of(arm).runs_transformer:
            _require_fitting_arm(model, params, arm, f"arms.{name}")


def _require_fitting_arm(model: WanCheckpoint, params: ModelParams, arm: ArmParams, row: str) -> None:
    """Refuse sizes of a row's passes, its own at the target and those of its stages, that do not fit."""
    try:
        own = chunk_size(arm, params.target, params.native.frames)
    except ValueError as error:
        raise ValueError(f"{row}: {error}") from None
    passes: list[tuple[str, ClipSize, ArmParams | StageParams]] = [("model.target", own, arm)]
    for index, stage in enumerate(arm.stages or ()):
        size = params.target.model_copy(update={"height": stage.height, "width": stage.width})
        _require_smaller(size, params.target, f"{row}.stages.{index}")
        require_fitting_size(model, size.height, size.width, f"{row}.stages.{index}")
        passes.append((f"stages.{index}", size, stage))
    native = token_grid(model, params.native.height, params.native.width)
    for field, size, one in passes:
        require_fitting_pass(model, size, one, native, f"{row}: {field}")


def chunk_size(arm: ArmParams, size: ClipSize, native: int) -> ClipSize:
    """What of a clip the transformer sees at once: a row's chunk, or all of it.

    Args:
        arm: The row.
        size: Of the clip.
        native: Frames that the base was trained on.

    Raises:
        ValueError: The row's chunks do not overlap as they must.
    """
    if arm.long is None:
        return size
    return size.model_copy(update={"frames": arm.long.seen(size.frames, native)[1]})


def require_fitting_pass(
    model: WanCheckpoint, size: ClipSize, one: ArmParams | StageParams, native: tuple[int, int], what: str
) -> None:
    """Refuse a size that the attention or the positions of one pass cannot take.

    Args:
        model: Its VAE and patches say how many tokens a size has.
        size: Of the clip.
        one: The row, or one of its stages.
        native: (H, W) of the native token grid.
        what: As for `require_fitting_attention`.

    Raises:
        ValueError: Names the row, the size and the way out.
    """
    require_fitting_attention(model, size, one.attention, what)
    try:
        rope_of(one.rope).check(clip_grid(model, size.height, size.width, size.frames), native)
    except ValueError as error:
        raise ValueError(f"{what} {size.height}x{size.width}: {error}") from None


def _require_smaller(size: ClipSize, target: ClipSize, what: str) -> None:
    """Its noise would be the target's where sizes are equal."""
    if size.height > target.height or size.width > target.width or size == target:
        raise ValueError(
            f"{what} {size.height}x{size.width} is not smaller than model.target {target.height}x{target.width}: a "
            "cascade only ever enlarges"
        )


def require_fitting_attention(model: WanCheckpoint, size: ClipSize, attention: AttentionSettings, what: str) -> None:
    """Refuse a size that a row's attention cannot cut into equal parts.

    Args:
        model: Its VAE and patches say how many tokens a size has.
        size: Of the clip or the image.
        attention: Of the row.
        what: The row and the field that names the size, split by a colon: `arms.full: model.target`.

    Raises:
        ValueError: Names the row, its attention, the size and the nearest that fit.
    """
    row, field = what.split(": ")
    require_fitting_layers(model, attention, row)
    said = f"{row} with {attention_words(attention)} attention: {field}"
    grid = clip_grid(model, size.height, size.width, size.frames)
    try:
        per_axis = kind_of(attention).multiples(grid)
    except ValueError as error:
        raise ValueError(f"{said} {size.height}x{size.width} of {size.frames} frames: {error}") from None
    frames, step = grid[0], per_axis[0]
    if frames % step:
        time = model.config_of("vae")["scale_factor_temporal"]
        around = dict.fromkeys((max(step, frames // step * step), -(-frames // step) * step))
        fits = " or ".join(str((n - 1) * time + 1) for n in around)
        raise ValueError(
            f"{said} of {size.frames} frames is {frames} latent frames, which must be a multiple of {step}; nearest "
            f"that are: {fits} frames"
        )
    require_fitting_size(model, size.height, size.width, said, per_axis[1:])


def require_fitting_layers(model: WanCheckpoint, attention: AttentionSettings, row: str) -> None:
    """Refuse attention that tells blocks apart which the transformer does not have.

    Raises:
        ValueError: Names the row, the field and the last block.
    """
    try:
        kind_of(attention).require_layers(model.config_of("transformer")["num_layers"])
    except ValueError as error:
        raise ValueError(f"{row}.attention: {error}") from None


def require_fitting_buckets(tokens: int, attention: AttentionSettings, row: str) -> None:
    """Refuse buckets of images, whose sides are multiples of `tokens`, some of which a row's attention could not cut.

    Raises:
        ValueError: Names the row, its attention and both numbers.
    """
    said = f"{row} with {attention_words(attention)} attention"
    try:
        frames, *sides = kind_of(attention).multiples((1, tokens, tokens))
    except ValueError as error:
        raise ValueError(f"{said}: images have sizes of their own; {error}") from None
    if frames > 1:
        raise ValueError(f"{said} cuts clips into {frames} parts along time, and an image is one frame")
    if any(tokens % side for side in sides):
        raise ValueError(
            f"{said}: its parts of {sides[0]}x{sides[1]} tokens do not divide data.bucket_tokens {tokens}: some "
            f"buckets would not fit; set bucket_tokens to a multiple of {math.lcm(*sides)}"
        )
