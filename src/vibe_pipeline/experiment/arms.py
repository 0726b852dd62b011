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
from vibe_pipeline.experiment.bridge import BridgeStart
from vibe_pipeline.experiment.groups import Fraction, Name, Params
from vibe_pipeline.experiment.long import LongParams
from vibe_pipeline.experiment.origin import Unfolded
from vibe_pipeline.experiment.region_adaptive import RegionAdaptiveParams
from vibe_pipeline.experiment.rope import RopeParams
from vibe_pipeline.experiment.step_cache import StepCacheParams
from vibe_pipeline.experiment.super_resolution import SuperResolutionParams


class ExtraAdapter(Params):
    """A LoRA beside the arm's own: few-step distillation, a style."""

    path: Path = Field(description="a .safetensors file in diffusers format; others: kedro vibe import-adapter")
    weight: float = Field(1.0, description="any number: the update is multiplied by it")
    expert: Literal["low", "high"] = Field(
        "low", description="of a base of two experts, whose weights it changes: of low noise (transformer_2), or high"
    )
    differences: bool = Field(
        False, description="fuse differences.safetensors beside the file too, as import-adapter --differences wrote it"
    )

    @property
    def differences_path(self) -> Path:
        """Where changes of whole tensors lie, if there are any."""
        return self.path.with_name("differences.safetensors")


class OwnTransformer(Params):
    """All weights of the transformer, in place of the base's: T3-Video's, another whole fine-tune.

    Of a base of two experts they stand for the low-noise one.
    """

    path: Path = Field(
        description="a .safetensors file with diffusers' or Wan's names, or a folder of shards as diffusers writes it"
    )


class StageParams(Params):
    """A pass before a row's own, of method cascade: the first from noise, later ones from the enlarged latent."""

    height: PositiveInt = Field(description="of the pass's clip, in pixels")
    width: PositiveInt = Field(description="of the pass's clip, in pixels")
    attention: AttentionParams = Field(AttentionParams(), description="self-attention in this pass")
    rope: RopeParams = Field(RopeParams(), description="where tokens stand in this pass")
    flow_shift: PositiveFloat | None = Field(None, description="of this pass's schedule; None: the model's")
    strength: Annotated[float, Field(gt=0, le=1)] = Field(1.0, description="before the flow shift; the first's is 1")
    strength_mode: StrengthMode = Field("truncated", description="as of the row")
    steps: PositiveInt = Field(50, description="denoising steps from pure noise")


class SharpenParams(Params):
    """An unsharp mask over the clip that is made: x + amount · (x − x blurred by a Gaussian), clamped."""

    amount: PositiveFloat = Field(1.0, description="how much of what the Gaussian takes away is added once more")
    sigma: PositiveFloat = Field(1.0, description="of the Gaussian, in pixels of the native clip")


class ArmParams(Unfolded):
    """One row of `arms`: what is generated and scored."""

    renamed = {"steps_are": "strength_mode: all_steps (it was all) or truncated (it was share)"}  # noqa: RUF012

    label: str = Field(description="what the report calls it")
    method: Name = Field("refine", description="how clips are made: an entry of `generation.methods.METHODS`")
    adapter: Name | None = Field(None, description="a row of `adapters`, or none")
    keep_stage1: bool = Field(False, description="keep the image modality at inference (an ablation)")
    extra_adapters: tuple[ExtraAdapter, ...] = Field((), description="LoRAs beside the arm's own")
    transformer: OwnTransformer | None = Field(
        None, description="other weights for every layer of the transformer; text encoder and VAE stay the base's"
    )
    attention: AttentionParams = Field(AttentionParams(), description="self-attention in the second pass")
    unconditional_attention: Literal["window"] | None = Field(
        None, description="of guidance's pass without the prompt: the window of `attention` alone; None: as the other"
    )
    rope: RopeParams = Field(RopeParams(), description="where tokens stand, as rotary positions have it")
    scheduler: Literal["euler", "unipc", "midpoint"] = Field(
        "euler", description="solver of the second pass; midpoint takes two evaluations a step"
    )
    flow_shift: PositiveFloat | None = Field(
        None, description="of this arm's schedule; None: the model's, of a bridge 2.5"
    )
    strength: Annotated[float, Field(gt=0, le=1)] = Field(
        0.7,
        description="share of the noise schedule that is run, before the flow shift: 0.7 is sigma 0.921 at s = 5 [C]",
    )
    steps: PositiveInt = Field(50, description="denoising steps of the second pass [C]")
    strength_mode: StrengthMode = Field(
        "all_steps",
        description="all_steps: all from sigma_start [C]; truncated: the last strength x steps of a whole schedule",
    )
    guidance_scale: Annotated[float, Field(ge=1)] = Field(
        5.0, description="classifier-free guidance of the second pass [C]; 1: none, and half the work"
    )
    guidance_scale_2: Annotated[float, Field(ge=1)] | None = Field(
        None, description="the same of the low-noise expert, of a base of two; None: guidance_scale, as in diffusers"
    )
    guidance_interval: tuple[Fraction, Fraction] | None = Field(
        None, description="(low, high): noise levels that are guided, both ends included; None: all of them"
    )
    step_cache: StepCacheParams | None = Field(
        None, description="steps that take over what an earlier one computed; None: every step computes all"
    )
    region_adaptive: RegionAdaptiveParams | None = Field(
        None, description="refine, direct: steps that run some tokens alone (RAS), {} will do; None: all run all"
    )
    long: LongParams | None = Field(
        None, description="refine, direct: clips longer than native in chunks joined at every step, {} will do"
    )
    refresh_every: PositiveInt | None = Field(
        None, description="freeswim's cached form: steps between full-attention passes; None: both paths, always"
    )
    detail_transfer: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="share of the second pass's change that is added to the enlarged clip; None: its own pixels"
    )
    enlarge: Literal["pixels", "latent"] | None = Field(
        None, description="refine: what is enlarged, the native clip's frames (also None) or its latent, bilinearly"
    )
    bridge: BridgeStart | None = Field(
        None, description="refine: start on the way that a bridge adapter learned, in place of strength; {} will do"
    )
    stages: Annotated[tuple[StageParams, ...], Field(min_length=1)] | None = Field(
        None, description="cascade: the passes before the row's own, each from the latent of the one before"
    )
    sharpen: SharpenParams | None = Field(None, description="upsample, refine: an unsharp mask afterwards; None: plain")
    path: Path | None = Field(None, description="external: the folder of another system's clips")
    sr: SuperResolutionParams | None = Field(None, description="sr: the network, and its tiles")
    optional: bool = Field(False, description="where a file that it names is not there, listed with that and not run")

    @model_validator(mode="after")
    def _stage1_is_an_adapters(self) -> Self:
        if self.keep_stage1 and self.adapter is None:
            raise ValueError("keep_stage1 needs an adapter that was trained on stage 1")
        return self

    @model_validator(mode="after")
    def _guidance_is_somewhere(self) -> Self:
        if self.guidance_interval is not None and self.guidance_interval[0] >= self.guidance_interval[1]:
            low, high = self.guidance_interval
            raise ValueError(f"guidance_interval [{low:g}, {high:g}] is empty: the first number is the lower")
        return self

    @property
    def files(self) -> dict[str, Path]:
        """Every file or folder that the row names and that has to be there, by its field."""
        ratios = self.step_cache.ratios if self.step_cache else None
        own = {"path": self.path, "step_cache.ratios": ratios}
        return self.weight_files | {field: path for field, path in own.items() if path}

    @property
    def weight_files(self) -> dict[str, Path]:
        """Files of weights among them: `fetch-weights --arms` brings those that it knows."""
        extras = {f"extra_adapters.{i}.path": extra.path for i, extra in enumerate(self.extra_adapters)}
        asked = {f"extra_adapters.{i}.differences": e for i, e in enumerate(self.extra_adapters) if e.differences}
        extras |= {field: extra.differences_path for field, extra in asked.items()}
        own = {"transformer.path": self.transformer.path} if self.transformer else {}
        return own | extras | ({"sr.weights": self.sr.weights} if self.sr else {})
