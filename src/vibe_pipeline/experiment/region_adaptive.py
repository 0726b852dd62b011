"""A row's region-adaptive sampling: which tokens go through the transformer in which step."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from vibe_pipeline.diffusion.regions import RegionSchedule
from vibe_pipeline.experiment.groups import NonNegative, Params


class RegionAdaptiveParams(Params):
    """Steps that run the active tokens alone (RAS, arXiv 2502.10389); the defaults are those of microsoft/RAS."""

    share: Annotated[float, Field(gt=0, le=1)] = Field(
        0.5, description="of the tokens that such a step runs; 1: all, which is plain sampling"
    )
    start: PositiveInt = Field(4, description="steps at the start that run all tokens")
    every: Annotated[int, Field(ge=2)] = Field(
        9, description="afterwards one step in so many runs all tokens, to reset errors; of 30 steps RAS has 12 and 22"
    )
    starvation: NonNegative = Field(
        0.1, description="k of exp(k x times left out), by which a token's score moves until it is active again"
    )
    active: Literal["low", "high"] = Field(
        "low", description="tokens whose velocity has the lowest, or the highest, standard deviation over channels"
    )

    @property
    def schedule(self) -> RegionSchedule:
        """As sampling and plan take it."""
        return RegionSchedule(**self.model_dump())

    def words(self) -> str:
        """For the report."""
        return f"{self.share:.0%} of the tokens after {self.start} steps, all in 1 of {self.every}"
