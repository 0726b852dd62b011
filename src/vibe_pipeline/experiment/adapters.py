"""A row of `adapters`: what stage 2 trains."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from vibe_pipeline.diffusion.attention.kinds import kind_of
from vibe_pipeline.experiment.attention import AttentionParams
from vibe_pipeline.experiment.bridge import BridgeParams
from vibe_pipeline.experiment.crop import CropParams
from vibe_pipeline.experiment.groups import Grown, Name, NonNegative
from vibe_pipeline.experiment.origin import Unfolded
from vibe_pipeline.experiment.training import TrainParams


def _odd(kernel: int) -> int:
    if kernel % 2 == 0:
        raise ValueError(f"{kernel} has no middle: give an odd number, such as {kernel + 1}")
    return kernel


class DegradationParams(Grown):
    """How stage 2 makes the degraded latent that it learns to restore.

    `latent` is the paper's: shrink and enlarge the latent, by `factor` and `mode`. `pixel` is our own variation:
    shrink the image to native size, enlarge it, encode: what inference feeds the model; it has neither of the two.
    `pixel_drawn` is FlashVideo's: the same by a factor drawn an image, of those that `data.pixel_draws` encodes.
    `noise` and `blur` are what the paper's authors tried beside their own: the latent with Gaussian noise of `std`,
    drawn at every step, and the latent's frames blurred by a Gaussian of `kernel` x `kernel` and `sigma`.
    """

    later = frozenset({"probability", "std", "kernel", "sigma"})
    reads: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "latent": ("factor", "mode"),
        "noise": ("std",),
        "blur": ("kernel", "sigma"),
    }
    """The fields that are one kind's own; the others have none."""

    kind: Literal["latent", "pixel", "pixel_drawn", "noise", "blur"] = Field(
        "latent", description="the paper's form [C], ours, FlashVideo's, or one of two more that the authors tried [C]"
    )
    factor: Annotated[float, Field(gt=0, lt=1)] = Field(0.5, description="latent: side of the small latent, share [C]")
    mode: Literal["trilinear", "nearest"] = Field("trilinear", description="latent: how it is resized [C]")
    probability: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="share of images that are degraded, drawn at every step; the others are learned as they are"
    )
    std: Annotated[float, Field(gt=0, le=1)] = Field(
        0.05, description="noise: its deviation, latents having 1; they tried 0.01 to 0.1 [C], 0.05 is our choice"
    )
    kernel: Annotated[int, Field(ge=3), AfterValidator(_odd)] = Field(
        5, description="blur: side of the Gaussian's window in cells of the latent, odd [C]"
    )
    sigma: Annotated[float, Field(gt=0)] = Field(1.0, description="blur: the Gaussian's deviation in cells [C]")

    @model_validator(mode="after")
    def _fields_are_the_kinds_own(self) -> Self:
        for owner, names in self.reads.items():
            for name in names:
                if owner != self.kind and getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} belongs to {owner}, not to degradation kind {self.kind!r}")
        return self

    @property
    def own(self) -> dict[str, Any]:
        """The fields that its kind reads, defaults too."""
        return {name: getattr(self, name) for name in self.reads.get(self.kind, ())}

    def counting(self) -> dict[str, Any]:
        """The kind, what it reads, and the probability where it is not 1."""
        share = {} if self.probability == 1 else {"probability": self.probability}
        return {"kind": self.kind} | self.own | share


def _weights_of_objectives(weights: dict[str, float]) -> dict[str, float]:
    """Known objectives with a weight; those that weigh nothing are left out, so that equal rows have equal keys."""
    from vibe_pipeline.diffusion.objectives import OBJECTIVES  # only where rows are checked, not for --help

    if unknown := sorted(set(weights) - set(OBJECTIVES)):
        raise ValueError(f"unknown objective {unknown[0]!r}; known: {', '.join(OBJECTIVES)}")
    if not any(weights.values()):
        raise ValueError(f"all loss weights are 0: give one of {', '.join(OBJECTIVES)} a positive weight")
    return {name: weight for name, weight in weights.items() if weight}


ObjectiveWeights = Annotated[
    dict[str, NonNegative],
    AfterValidator(_weights_of_objectives),
    Field(description="weights, 0 or more, of the stage-2 losses by name; see `diffusion.objectives.OBJECTIVES`"),
]


class AdapterParams(Unfolded, TrainParams):
    """One row of `adapters`: a stage-2 adapter."""

    later = TrainParams.later | {"bridge", "crop"}

    label: str = Field(description="what the report calls it")
    start: Name = Field(
        "modality", description="a row of `stage1`, fused and frozen (Relay), or `base` (naive tuning) [A]"
    )
    objective: ObjectiveWeights = {"hfato": 1.0}  # noqa: RUF012  pydantic copies it
    degradation: DegradationParams = Field(DegradationParams(), description="of objectives that degrade the latent")
    bridge: BridgeParams | None = Field(None, description="of the objectives bridge and bridge_literal, which need it")
    crop: CropParams | None = Field(None, description="learn a crop of each image (HPDM); None: all of it [C]")
    attention: AttentionParams = Field(AttentionParams(kind="gclf"), description="self-attention in training [A]")
    validation_clips: Annotated[int, Field(ge=0)] = Field(
        0, description="prompts rendered every validate_every steps, as the first arm of this adapter does"
    )

    @model_validator(mode="after")
    def _validation_clips_have_their_steps(self) -> Self:
        if self.validation_clips and self.validate_every is None:
            raise ValueError("validation_clips are made every validate_every steps: give validate_every a number")
        return self

    @model_validator(mode="after")
    def _crops_see_all(self) -> Self:
        if self.crop is not None and (self.attention.kind != "full" or self.attention.scale is not None):
            raise ValueError("crop has tokens of two grids, crop and context: set attention to {kind: full}")
        if self.crop is not None and self.packing is not None:
            raise ValueError("crop and packing both lay tokens of several grids in a row: leave one of them out")
        return self

    @model_validator(mode="after")
    def _attention_needs_no_clip(self) -> Self:
        if kind_of(self.attention).stepwise:
            raise ValueError(
                f"attention kind {self.attention.kind!r} goes by the steps of a clip, and training has none: "
                "train with full or gclf, and give it to the arm"
            )
        return self

    @model_validator(mode="after")
    def _bridge_is_an_objectives(self) -> Self:
        forms = self.bridges
        if self.bridge is None:
            if forms:
                raise ValueError("objectives bridge and bridge_literal need `bridge`: where the way starts; {} will do")
        elif not forms:
            raise ValueError("bridge belongs to the objectives bridge and bridge_literal: give one of them a weight")
        elif self.bridge.degradation == "pixel" and "wan" in forms:
            raise ValueError("bridge.degradation: pixel has no noise at its start, which only bridge_literal can learn")
        return self

    @property
    def degrades(self) -> bool:
        """Whether any of its losses takes a degraded latent; a bridge of noise alone takes the clean one."""
        from vibe_pipeline.diffusion.objectives import degrades

        noise_alone = self.bridge is not None and self.bridge.degradation == "latent"
        return degrades(self.objective) and not noise_alone

    @property
    def forwards(self) -> int:
        """One for each objective, as each noises its latents in its own way."""
        return len(self.objective)

    @property
    def bridges(self) -> set[str]:
        """Forms of the bridges among its losses."""
        from vibe_pipeline.diffusion.objectives import bridges

        return set(bridges(self.objective))
