"""Stage 2 on crops of large images (HPDM)."""

from typing import Annotated

from pydantic import Field, PositiveInt

from vibe_pipeline.experiment.groups import Params


class CropParams(Params):
    """What of an image a step learns: a crop at its true place, drawn each time, and the whole as a few tokens."""

    height: PositiveInt = Field(description="pixels; a multiple of a token; the native size is what the base knows")
    width: PositiveInt = Field(description="pixels; an upright image is cropped upright")
    pool: Annotated[int, Field(ge=2)] | None = Field(
        2, description="the whole image is averaged over cells of this many tokens and runs beside; None: it does not"
    )
