"""What the report puts to the test: an environment's claims.yml."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, RootModel, ValidationError

from vibe_pipeline.io.errors import refusal
from vibe_pipeline.io.yaml_files import read_yaml


class Claim(BaseModel):
    """One claim: `arm` is better than `other` on every metric of `metrics` (name -> its better side)."""

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
