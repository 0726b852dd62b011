"""`sharpen`: an unsharp mask over a clip that is made.

It adds no detail, only contrast at the edges that are there, which scores of sharpness reward, and band error too where
a clip is too soft. So it is a bar: what a second pass restores has to be more than what its VAE and a mask give.
"""

from typing import TYPE_CHECKING

from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.generation.methods.base import ArmJob

if TYPE_CHECKING:
    from torch import Tensor


def sharpened(clips: "Tensor", job: ArmJob) -> "Tensor":
    """Clips [B, 3, T, H, W], bytes or floats in [0, 1], with the row's mask, IN PLACE; as they came without one.

    The mask's sigma is in pixels of the native clip, so that a row means the same at every size.
    """
    import torch

    from vibe_pipeline.images.resize import sharpen

    mask = job.arm.sharpen
    if mask is None:
        return clips
    sigma = mask.sigma * job.size.height / job.model.native.height
    if clips.dtype != torch.uint8:
        return sharpen(clips, sigma, mask.amount)
    with torch.inference_mode():  # decoded clips were made in it, and may be changed nowhere else
        for frames in clips.split(1, dim=2):  # a 4K clip as floats does not fit
            frames.copy_(sharpen(frames.float() / 255, sigma, mask.amount).mul_(255).round_())
    return clips


def sharpen_words(arm: ArmParams) -> str:
    """The mask, for the report."""
    mask = arm.sharpen
    return "" if mask is None else f"unsharp mask of {mask.amount:g} at {mask.sigma:g} native pixels"
