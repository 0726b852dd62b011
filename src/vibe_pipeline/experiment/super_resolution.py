"""`sr` of an arm: which single-image network enlarges the native clip, and in what pieces."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from vibe_pipeline.experiment.groups import Params


class SuperResolutionParams(Params):
    """A single-image network over every frame of the native clip, then an antialiased resize to the target."""

    weights: Path = Field(description="a .pth or .safetensors file of a network that spandrel knows, as Real-ESRGAN's")
    tile: PositiveInt | None = Field(
        None, description="side of a tile in pixels of the native clip, which bounds memory; None: whole frames"
    )
    overlap: int = Field(32, ge=32, description="pixels of the native clip that tiles share at least, blended")
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None, description="what the network computes in; None: model.dtype. Its authors take float16"
    )

    @model_validator(mode="after")
    def _tiles_advance(self) -> Self:
        if self.tile is not None and self.tile < 2 * self.overlap:
            raise ValueError(f"tile {self.tile} is less than twice the overlap {self.overlap}: tiles would lie thrice")
        return self
