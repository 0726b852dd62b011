"""What one adapter's training takes, whichever stage; a row of `stage1`."""

from typing import Annotated, Literal, Self

from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from vibe_pipeline.diffusion.flow import Weighting
from vibe_pipeline.experiment.groups import Grown, NonNegative, Params
from vibe_pipeline.experiment.packing import PackingParams


class LoraParams(Params):
    """Shape of a low-rank update."""

    rank: PositiveInt = Field(32, description="inner width of the update [C]")
    alpha: PositiveFloat = Field(32.0, description="the update is multiplied by alpha / rank [C]")
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2"),
        description="ends of the names of layers; q, k, v, o of both attentions and both of the FFN [C]",
    )


class OptimiserParams(Params):
    """AdamW and its schedule."""

    kind: Literal["adamw", "adamw_8bit"] = Field(
        "adamw", description="adamw_8bit holds its state in a quarter of the memory, and needs bitsandbytes"
    )
    learning_rate: PositiveFloat = Field(1e-4, description="at the end of the warm-up [C]")
    weight_decay: NonNegative = Field(0.01, description="AdamW's, decoupled from the gradient [C]")
    warmup_steps: Annotated[int, Field(ge=0)] = Field(0, description="steps of linear rise; none are published")
    schedule: Literal["constant", "cosine"] = Field(
        "constant", description="after the warm-up: the same rate [C], or a cosine to 0 at the last step"
    )
    clip_norm: PositiveFloat | None = Field(
        1.0, description="longest gradient, L2 norm over all weights; None: not clipped, as in the published code [C]"
    )


class TrainParams(Grown):
    """What one adapter's training takes, whichever stage."""

    later = frozenset({"packing"})

    lora: LoraParams = Field(LoraParams(), description="shape of the update")
    optimiser: OptimiserParams = Field(OptimiserParams(), description="AdamW and its schedule")
    steps: PositiveInt = Field(3000, description="optimiser steps; per stage [N]")
    batch_size: PositiveInt = Field(
        1, description="images per optimiser step, over all processes [C]; with packing, sequences"
    )
    packing: PackingParams | None = Field(
        None,
        description="images of all sizes one behind the other in a sequence (NaViT); None: a batch is of one size [C]",
    )
    micro_batch: PositiveInt | None = Field(
        None, description="images per forward and process, gradients accumulated; None: all of its share at once"
    )
    processes: PositiveInt = Field(1, description="training processes on this machine; with CUDA one GPU each")
    sigma_shift: PositiveFloat = Field(5.0, description="s of the training sigmas [C]; below 1: towards low noise")
    sigma_sampling: Literal["uniform_shifted", "logit_normal"] = Field(
        "uniform_shifted", description="the paper's [C], or the sigmoid of a normal draw; both are shifted by s"
    )
    logit_mean: float = Field(0.0, description="any number: of the normal draw, for either logit_normal")
    logit_std: PositiveFloat = Field(1.0, description="standard deviation of the normal draw, for either logit_normal")
    loss_weighting: Weighting = Field(
        "bell",
        description="w(sigma): the paper's bell [C], 1, the cosine map of Stable Diffusion 3, min-SNR (of a velocity "
        "or an x0 loss), or the density of a logit-normal draw",
    )
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="average the adapter over steps with this decay; the average is what is kept"
    )
    seed: int = Field(0, description="any whole number: of first weights, order of images, noise, sigma")
    checkpoint_every: PositiveInt = Field(100, description="steps between checkpoints")
    log_every: PositiveInt = Field(10, description="steps between log lines")
    validate_every: PositiveInt | None = Field(None, description="steps between held-out losses; None: at the end only")
    autocast: bool = Field(True, description="bfloat16 activations; the adapter itself stays in 32 bit [C]")
    gradient_checkpointing: bool = Field(
        False, description="recompute blocks in the backward pass: less memory, slower"
    )
    compile: bool = Field(False, description="torch.compile of the repeated blocks")

    @model_validator(mode="after")
    def _every_process_has_images(self) -> Self:
        if self.processes > self.batch_size:
            raise ValueError(f"batch_size {self.batch_size} leaves some of {self.processes} processes without an image")
        return self

    @model_validator(mode="after")
    def _packing_divides_by_itself(self) -> Self:
        if self.packing is not None and self.micro_batch is not None:
            raise ValueError("packing.tokens says how many images a forward holds: leave micro_batch out")
        if self.packing is not None and self.compile:
            raise ValueError("packing gives nearly every step another shape, each to be compiled: set compile to false")
        return self

    @property
    def forwards(self) -> int:
        """Of the transformer, an image and step: one for each objective."""
        return 1


class Stage1Params(TrainParams):
    """One row of `stage1`: velocity loss on low-resolution images with full attention."""
