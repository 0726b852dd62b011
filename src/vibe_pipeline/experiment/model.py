"""`model`: which base, and at what sizes it works."""

from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from vibe_pipeline.diffusion.quantisation import known_quantisation
from vibe_pipeline.experiment.groups import Params


class ClipSize(Params):
    """A video's shape in pixels and frames."""

    height: PositiveInt = Field(description="pixels; a multiple of the VAE's spatial factor times the patch")
    width: PositiveInt = Field(description="pixels; likewise")
    frames: PositiveInt = Field(1, description="4k + 1, as Wan's VAE takes them; 1: an image")
    fps: PositiveFloat = Field(
        24.0, description="frames a second of a clip, as the base was trained; [M] Wan2.2's, where Wan2.1's is 16"
    )

    @field_validator("frames")
    @classmethod
    def _frames_fit_the_vae(cls, frames: int) -> int:
        if frames % 4 != 1:
            raise ValueError(f"Wan's VAE takes 4k + 1 frames: {frames} is not; nearest {frames // 4 * 4 + 1}")
        return frames


class ModelParams(Params):
    """Which base model, and its native scale."""

    path: str = Field(description="a folder in diffusers layout, or a hub id")
    native: ClipSize = Field(description="what the base was trained on: clips of the first pass")
    target: ClipSize = Field(description="what the second pass makes: as many frames, larger")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="of the transformer's weights and activations; Wan's is bfloat16 [C]"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU where torch sees one")
    text_length: PositiveInt = Field(512, description="tokens a prompt is padded to; [M] umT5's, as Wan was trained")
    flow_shift: PositiveFloat = Field(5.0, description="s of sigma' = s sigma / (1 + (s - 1) sigma), at inference [C]")
    threads: PositiveInt | None = Field(None, description="CPU threads per process; None leaves torch's choice")
    tile: PositiveInt | None = Field(
        None, description="VAE tile in pixels, a multiple of the VAE's spatial factor; None decodes whole frames"
    )
    vae_dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the VAE's weights and activations; [M] as diffusers recommends for Wan"
    )
    quantisation: Annotated[str, AfterValidator(known_quantisation)] | None = Field(
        None,
        description="the frozen blocks' linear layers in a byte a weight (int8, fp8: torchao; fp8_cast: no scales) or "
        "4.5 bit (nf4: bitsandbytes), in training and where clips are made; None as `dtype` says",
    )
    compile: bool = Field(False, description="torch.compile of the transformer's blocks where clips are made")
    deterministic: bool = Field(
        False,
        description="torch's deterministic algorithms alone, slower: a GPU repeats bit for bit",
    )
    offload: bool | Literal["blocks"] = Field(
        False,
        description="where clips are made, keep only the part at work (transformer or VAE) on the device; blocks: and "
        "of the transformer's blocks only the one at work and the next (diffusers' group offloading)",
    )

    @model_validator(mode="after")
    def _target_is_native_length(self) -> Self:
        if self.target.frames != self.native.frames:
            raise ValueError(f"target.frames {self.target.frames} differs from native.frames {self.native.frames}")
        return self
