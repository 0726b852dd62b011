"""`model`: which base, and at what sizes it works."""

from typing import Literal, Self

from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from vibe_pipeline.experiment.groups import Params


class ClipSize(Params):
    """A video's shape in pixels and frames."""

    height: PositiveInt
    width: PositiveInt
    frames: PositiveInt = 1
    fps: PositiveFloat = 8.0

    @field_validator("frames")
    @classmethod
    def _frames_fit_the_vae(cls, frames: int) -> int:
        if frames % 4 != 1:
            raise ValueError(f"Wan's VAE takes 4k + 1 frames: {frames} is not; nearest {frames // 4 * 4 + 1}")
        return frames


class ModelParams(Params):
    """Which base model, and its native scale."""

    path: str = Field(description="a folder in diffusers layout, or a hub id")
    native: ClipSize
    target: ClipSize
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    text_length: PositiveInt = Field(512, description="tokens a prompt is padded to; as the base was trained")
    flow_shift: PositiveFloat = Field(5.0, description="s of sigma' = s sigma / (1 + (s - 1) sigma), at inference")
    threads: PositiveInt | None = Field(None, description="CPU threads per process; None leaves torch's choice")
    tile: PositiveInt | None = Field(
        None, description="VAE tile in pixels, a multiple of the VAE's spatial factor; None decodes whole frames"
    )
    vae_dtype: Literal["float32", "bfloat16"] = "float32"
    offload: bool = Field(False, description="keep only the part at work (transformer or VAE) on the device")

    @model_validator(mode="after")
    def _target_is_native_length(self) -> Self:
        if self.target.frames != self.native.frames:
            raise ValueError(f"target.frames {self.target.frames} differs from native.frames {self.native.frames}")
        return self
