"""Which sizes training images are cut to: one, or one for each proportion around the same number of pixels."""

import math
from dataclasses import dataclass

from vibe_pipeline.diffusion.checkpoint import Configured, require_fitting_size
from vibe_pipeline.experiment.data import DataParams
from vibe_pipeline.experiment.model import ClipSize
from vibe_pipeline.images.crop import aspect_buckets, nearest_bucket

Size = tuple[int, int]


@dataclass(frozen=True)
class Bucket:
    """A size of training images, and the two that belong to it; (height, width) in pixels.

    Attributes:
        high: What images are cut to, for stage 2.
        low: Their low-resolution counterpart, for stage 1.
        native: What the base would make of it: the pixel degradation shrinks to this and enlarges back.
    """

    high: Size
    low: Size
    native: Size


def make_buckets(model: Configured, native: ClipSize, data: DataParams) -> list[Bucket]:
    """The buckets of a training set: the parameters' own sizes, and with `aspect` those of about equal areas.

    High sizes are multiples of `bucket_tokens` tokens, low ones of one token. Native ones are never encoded, so they
    take the proportions of the high size to the pixel.

    Args:
        model: Whose VAE and patches give the size of a token in pixels.
        native: The base's own size.
        data: `low`, `high`, `buckets`, `max_aspect`, `bucket_tokens`.

    Returns:
        One bucket, or several, lowest first; an image's bucket is the one of the nearest proportions.

    Raises:
        ValueError: A size that fits neither the model nor the buckets; the message names the parameter.
    """
    aspect = data.buckets == "aspect"
    require_fitting_size(model, data.low.height, data.low.width, "data.low")
    require_fitting_size(model, data.high.height, data.high.width, "data.high", data.bucket_tokens if aspect else 1)
    own = Bucket(_size(data.high), _size(data.low), _size(native))
    if not aspect:
        return [own]
    token = model.config_of("vae")["scale_factor_spatial"] * math.lcm(*model.config_of("transformer")["patch_size"][1:])
    try:
        high = aspect_buckets(*own.high, token * data.bucket_tokens, data.max_aspect)
        low = aspect_buckets(*own.low, token, data.max_aspect)
    except ValueError as error:
        raise ValueError(f"data.low and data.high do not fit data.max_aspect {data.max_aspect:g}: {error}") from error
    return [own if size == own.high else _counterparts(size, low, own) for size in high]


def _counterparts(high: Size, low: list[Size], own: Bucket) -> Bucket:
    within = [size for size in low if size[0] <= high[0] and size[1] <= high[1]]
    scale = math.sqrt(math.prod(own.native) / math.prod(own.high))
    return Bucket(high, nearest_bucket(*high, within), (round(high[0] * scale), round(high[1] * scale)))


def _size(clip: ClipSize) -> Size:
    return clip.height, clip.width
