"""`data`: the training images."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    Field,
    PositiveInt,
    model_validator,
)

from vibe_pipeline.experiment.groups import Fraction, NonNegative, Params
from vibe_pipeline.experiment.model import ClipSize


class PixelDraws(Params):
    """Degraded latents of every image by factors of its own, for `degradation: {kind: pixel_drawn}`.

    FlashVideo draws a factor at every step; encoding takes as long as the step itself, so a few are drawn an image.
    """

    least: Annotated[float, Field(gt=1)] = Field(4.0, description="least factor that a side is shrunk by [C]")
    most: Annotated[float, Field(gt=1)] = Field(8.0, description="largest; drawn evenly between the two [C]")
    count: PositiveInt = Field(4, description="draws an image; a training step takes one of them at random [I]")

    @model_validator(mode="after")
    def _least_comes_first(self) -> Self:
        if self.least > self.most:
            raise ValueError(f"least {self.least:g} lies above most {self.most:g}")
        return self


class DataParams(Params):
    """Training images: where they are, and what is made of them."""

    source: Literal["miniature", "folder", "huggingface"] = Field(
        "folder", description="images of a folder, of a Hugging Face dataset, or rendered by the miniature's world"
    )
    path: Path = Field(
        description="the folder of images (the miniature renders its own into it); huggingface: a dataset's hub id or "
        "local folder"
    )
    split: str = Field("train", description="huggingface: which split")
    subset: str | None = Field(None, description="huggingface: which configuration, where a dataset has several")
    image_column: str = Field("image", description="huggingface: the column of images")
    text_column: str = Field("text", description="huggingface: the column of captions")
    count: PositiveInt | None = Field(None, description="how many images to render or to use at most")
    low: ClipSize = Field(description="stage-1 image size, pixels; within `high`")
    high: ClipSize = Field(description="stage-2 image size, pixels; smaller images are put aside")
    buckets: Literal["single", "aspect"] = Field(
        "aspect",
        description="single: every image is cut to `high`; aspect: to the nearest aspect of about its area [I]",
    )
    max_aspect: Annotated[float, Field(ge=1)] = Field(
        2.0, description="long side over short side of the longest bucket; longer images are cut to it"
    )
    bucket_tokens: PositiveInt = Field(
        2, description="sides of high buckets are multiples of this many tokens: of `attention.pool`, for gclf"
    )
    camera_blur: NonNegative = Field(
        0.0,
        description="Gaussian sigma, native pixels: how much softer the base's clips are than a shrunk image; "
        "the paper shrinks its images and no more [C]",
    )
    still_style: NonNegative = Field(
        1.0,
        description="miniature: how far its stills' colour grade is from its videos', times the world's own; 0: none",
    )
    pixel_draws: PixelDraws | None = Field(
        None, description="encode degraded latents by drawn factors too (FlashVideo); None: by the native size alone"
    )
    min_usable_share: Fraction = Field(
        0.5, description="fewer usable images than this share of all that was found, refused ones too, stop the run"
    )
    max_caption_words: PositiveInt = Field(256, description="between blanks; an image with more is put aside")
    check_workers: PositiveInt | None = Field(
        None, description="processes that decode images in the check; None: model.threads, or else one a core"
    )
    encode_batch: PositiveInt = Field(1, description="images encoded together")
    held_out: PositiveInt = Field(
        16,
        description="images kept from training, for the held-out loss and the check; within held_out_share; the "
        "paper trains on all its images",
    )
    held_out_share: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.25, description="at most this share of the usable images is held out, and always one of them"
    )
    seed: int = Field(0, description="any whole number: which images are rendered or held out")

    @model_validator(mode="after")
    def _low_is_within_high(self) -> Self:
        low, high = self.low, self.high
        if low.height > high.height or low.width > high.width:
            raise ValueError(
                f"low {low.height}x{low.width} does not lie within high {high.height}x{high.width}: the low-resolution "
                "images are made by shrinking the others"
            )
        if self.pixel_draws is not None and self.pixel_draws.most > (side := min(high.height, high.width)):
            raise ValueError(f"pixel_draws.most {self.pixel_draws.most:g} leaves nothing of a side of {side} pixels")
        return self
