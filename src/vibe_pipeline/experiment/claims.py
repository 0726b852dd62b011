"""What the report puts to the test: an environment's claims.yml."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, RootModel, ValidationError, model_validator

from vibe_pipeline.io.errors import refusal
from vibe_pipeline.io.yaml_files import read_yaml


class Claim(BaseModel):
    """One claim: `arm` is better than `other` on every metric of `metrics` (name -> its better side).

    With `at_least`, by at least so much; with `margin`, worse by no more than that (non-inferiority). Both are on the
    metric's own scale, which for VBench is 0 to 1: .008 are 0.8 points.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    statement: str
    source: str = ""
    arm: str
    other: str
    metrics: dict[str, Literal["higher", "lower"]] = Field(min_length=1)
    smallest: dict[str, FiniteFloat] = Field(
        default_factory=dict, description="differences below these are too small to matter, however certain"
    )
    at_least: dict[str, Annotated[FiniteFloat, Field(gt=0)]] = Field(
        default_factory=dict, description="by how much `arm` is better: the whole interval must lie beyond it"
    )

    margin: dict[str, Annotated[FiniteFloat, Field(gt=0)]] = Field(
        default_factory=dict,
        description="by how much `arm` may be worse: no part of the interval is beyond it",
    )

    def limit(self, metric: str) -> float:
        """The gain on a metric that its whole interval has to exceed; below 0 where a loss is allowed."""
        return self.at_least.get(metric, 0.0) - self.margin.get(metric, 0.0)

    @model_validator(mode="after")
    def _limits_are_of_its_metrics(self) -> Self:
        if both := sorted(self.at_least.keys() & self.margin.keys()):
            raise ValueError(f"at_least and margin both name {both[0]!r}: it is either more or not less")
        for field in ("smallest", "at_least", "margin"):
            if strange := [name for name in getattr(self, field) if name not in self.metrics]:
                raise ValueError(f"{field} names {strange[0]!r}, which is not one of the claim's metrics")
        return self


class Claims(RootModel[tuple[Claim, ...]]):
    """The list of claims, as a node is given it."""


def load_claims(path: Path) -> tuple[Claim, ...]:
    """Read the claims of a yml file.

    Raises:
        ValueError: The file is not a list of claims; the message names the file and the field.
    """
    claims = []
    for number, row in enumerate(read_yaml(path, "claims")):
        try:
            claims.append(Claim.model_validate(row))
        except ValidationError as error:
            raise ValueError(f"{path}: {refusal(error, f'claims.{number}', Claim)}") from error
    return tuple(claims)
