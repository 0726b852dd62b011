"""A row of `arms`: what is generated and scored."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from vibe_pipeline.diffusion.flow import StrengthMode
from vibe_pipeline.experiment.attention import AttentionParams
from vibe_pipeline.experiment.groups import Name, Params
from vibe_pipeline.experiment.origin import Unfolded


class ExtraAdapter(Params):
    """A LoRA beside the arm's own: few-step distillation, a style."""

    path: Path = Field(description="a .safetensors file in diffusers format; others: kedro vibe import-adapter")
    weight: float = 1.0


class OwnTransformer(Params):
    """All weights of the transformer, in place of the base's: T3-Video's, another whole fine-tune."""

    path: Path = Field(
        description="a .safetensors file with diffusers' or Wan's names, or a folder of shards as diffusers writes it"
    )


class ArmParams(Unfolded):
    """One row of `arms`: what is generated and scored."""

    renamed = {"steps_are": "strength_mode: all_steps (it was all) or truncated (it was share)"}  # noqa: RUF012

    label: str = Field(description="what the report calls it")
    method: Name = Field("refine", description="how clips are made: an entry of `generation.methods.METHODS`")
    adapter: Name | None = Field(None, description="a row of `adapters`, or none")
    keep_stage1: bool = Field(False, description="keep the image modality at inference (an ablation)")
    extra_adapters: tuple[ExtraAdapter, ...] = ()
    transformer: OwnTransformer | None = Field(
        None, description="other weights for every layer of the transformer; text encoder and VAE stay the base's"
    )
    attention: AttentionParams = AttentionParams()
    scheduler: Literal["euler", "unipc"] = "euler"
    flow_shift: PositiveFloat | None = Field(None, description="of this arm's schedule; None: the model's")
    strength: Annotated[float, Field(gt=0, le=1)] = Field(0.7, description="before the flow shift")
    steps: PositiveInt = Field(50, description="denoising steps of the second pass")
    strength_mode: StrengthMode = Field(
        "all_steps",
        description="all_steps: `steps` steps from sigma_start; truncated: the last strength x steps of them",
    )
    guidance_scale: Annotated[float, Field(ge=1)] = 5.0
    refresh_every: PositiveInt | None = Field(
        None, description="freeswim's cached form: steps between full-attention passes; None: both paths, always"
    )
    detail_transfer: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="share of the second pass's change that is added to the enlarged clip; None: its own pixels"
    )
    path: Path | None = Field(None, description="external: the folder of another system's clips")

    @model_validator(mode="after")
    def _stage1_is_an_adapters(self) -> Self:
        if self.keep_stage1 and self.adapter is None:
            raise ValueError("keep_stage1 needs an adapter that was trained on stage 1")
        return self
