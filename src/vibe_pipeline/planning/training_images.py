"""The training images before a run: which sizes they have to fill, and whether enough of them do."""

import pandas as pd

from vibe_pipeline.experiment.data import DataParams
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.images.buckets import Size, make_buckets
from vibe_pipeline.images.precheck import Precheck, precheck_images
from vibe_pipeline.planning.architecture import Architecture, load_architecture


def judge_images(found: pd.DataFrame, model: ModelParams, data: DataParams) -> Precheck:
    """What a run's own check will say of the images that were found, as far as can be told without decoding them.

    Args:
        found: From `find_images`.
        model: Its path gives the architecture, which may be one that is not downloaded yet.
        data: Sizes, captions and the least usable share.

    Raises:
        ValueError: A size that fits neither the model nor the buckets; the message names the parameter.
    """
    try:
        architecture = load_architecture(model.path)
    except (OSError, ValueError):  # no model that is known: what is wrong with it is said where it is looked for
        return precheck_images(found, (), data)
    return precheck_images(found, training_sizes(architecture, model, data), data)


def training_sizes(architecture: Architecture, model: ModelParams, data: DataParams) -> list[Size]:
    """(height, width) in pixels that stage 2's images are cut to.

    Raises:
        ValueError: As :func:`judge_images`.
    """
    return [bucket.high for bucket in make_buckets(architecture, model.native, data)]
