"""Self-attention of a row, in training or at inference."""

from typing import Annotated, Literal

from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
)

from vibe_pipeline.experiment.groups import Params


class AttentionParams(Params):
    """Self-attention of the transformer; sizes in tokens."""

    kind: Literal["full", "window", "gclf"] = "full"
    half_window: tuple[PositiveInt, PositiveInt] | None = Field(
        None, description="(d_h, d_w); None: half the native grid"
    )
    pool: Annotated[int, Field(ge=2)] = Field(2, description="side of the pooled tiles, for gclf")
    scale: PositiveFloat | Literal["freeswim"] | None = Field(
        None, description="attention scale; None: 1 / sqrt(head dim); freeswim: sqrt(log_N(2 N) / head dim)"
    )
