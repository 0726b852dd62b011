"""First frames of image-to-video: which can be used, and how they are brought to a size."""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vibe_pipeline.experiment.model import ClipSize
from vibe_pipeline.generation.clip_cache import Scale
from vibe_pipeline.images.crop import resize_and_crop
from vibe_pipeline.images.reading import load_rgb


def require_first_frames(prompts: pd.DataFrame, native: ClipSize, base: str, takes_one: bool) -> None:
    """Refuse first frames that the base could not take, or that are smaller than its native clip.

    Args:
        prompts: As `load_prompts` gives them.
        native: Size of the native clip.
        base: What the message calls the base.
        takes_one: Whether it is a TI2V model.

    Raises:
        ValueError: One line that names the files and both sizes.
    """
    if "first_frame" not in prompts:
        return
    framed = prompts.drop_duplicates("first_frame")
    if not takes_one:
        raise ValueError(
            f"generation.prompts: {len(framed)} prompts have a first_frame, and {base} takes no first frame: only "
            "models with per-token timesteps (Wan2.2-TI2V) do; leave the column out or change model.path"
        )
    small = framed[(framed["first_frame_height"] < native.height) | (framed["first_frame_width"] < native.width)]
    if len(small):
        shown = "; ".join(
            f"{r.first_frame} is {r.first_frame_height}x{r.first_frame_width}" for r in small.head(3).itertuples()
        )
        raise ValueError(
            f"generation.prompts: {len(small)} of {len(framed)} first frames are smaller than model.native "
            f"{native.height}x{native.width} (height x width): {shown}; give larger images"
        )


def first_frame_pixels(path: Path, size: Scale, native: Scale) -> NDArray[np.float32]:
    """A first frame [H, W, 3] in [0, 1] at the size of a clip.

    An image that covers the size is reduced to it. A smaller one is cut to the native clip's proportions and enlarged
    as the native clip is: its own detail stays, and it shows what the enlarged clip shows.

    Raises:
        ValueError: It is smaller than the native clip; names the file.
    """
    import torch  # here, since doctor judges first frames by their sizes alone

    from vibe_pipeline.images.resize import enlarge

    image = load_rgb(path)
    height, width = image.shape[:2]
    if height >= size.height and width >= size.width:
        return resize_and_crop(image, size.height, size.width)
    if height < native.height or width < native.width:
        raise ValueError(f"{path}: {height}x{width} is smaller than the native clip, {native.height}x{native.width}")
    scale = min(height / native.height, width / native.width)
    cut = resize_and_crop(image, round(native.height * scale), round(native.width * scale))
    pixels = torch.from_numpy(cut).permute(2, 0, 1)[None, :, None]
    return enlarge(pixels, size.height, size.width)[0, :, 0].permute(1, 2, 0).numpy()
