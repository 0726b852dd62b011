"""What the report puts to the test: an environment's claims.yml.

A claim says that one arm is better than another. What that is measured by stands in the claim's kind, once for all
claims of that kind: one primary measure, which alone decides, and secondary ones beside it; each with its margin, the
difference up to which two arms count as equivalent, named before a run is seen.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, RootModel, ValidationError, model_validator

from vibe_pipeline.io.errors import did_you_mean, one_line, refusal
from vibe_pipeline.io.yaml_files import read_mapping, read_yaml

Positive = Annotated[FiniteFloat, Field(gt=0)]
Checked = TypeVar("Checked", bound=BaseModel)


class Asked(BaseModel):
    """One measure that claims of a kind are put to."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    metric: str = Field(min_length=1)
    better: Literal["higher", "lower"]
    margin: Positive = Field(description="on the metric's own scale: a difference that lies within it is negligible")


class ClaimKind(BaseModel):
    """What every claim of a kind is judged on: the primary measure decides, the secondary ones are reported."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    primary: Asked
    secondary: tuple[Asked, ...] = ()

    @model_validator(mode="after")
    def _each_measure_once(self) -> Self:
        counts = Counter(asked.metric for asked in (self.primary, *self.secondary))
        if twice := [name for name, count in counts.items() if count > 1]:
            raise ValueError(f"{twice[0]!r} stands twice; a measure is either primary or secondary")
        return self


class ClaimRow(BaseModel):
    """A claim as its file says it: `arm` is better than `other`, by what the claim's `kind` measures.

    With `at_least`, by at least so much on the primary measure; on the metric's own scale, which for VBench is 0 to 1:
    .008 are 0.8 points.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    statement: str
    source: str = ""
    kind: str
    arm: str
    other: str
    at_least: Positive | None = Field(default=None, description="by how much `arm` is better on the primary measure")

    @model_validator(mode="after")
    def _two_arms(self) -> Self:
        if self.arm == self.other:
            raise ValueError(f"{self.arm!r} is compared with itself; `other` names another arm")
        return self


class Claim(ClaimRow):
    """A claim with the measures of its kind."""

    primary: Asked
    secondary: tuple[Asked, ...] = ()

    @property
    def measures(self) -> tuple[Asked, ...]:
        """All of them, the primary one first."""
        return self.primary, *self.secondary


class Claims(RootModel[tuple[Claim, ...]]):
    """The list of claims, as a node is given it."""


def load_claims(path: Path) -> tuple[Claim, ...]:
    """Read the kinds and the claims of a yml file.

    Raises:
        ValueError: The file is not a list of claims, a kind has no primary measure or a margin that is not positive, a
            claim's kind is not there, or a claim stands twice; the message names the file and the field.
    """
    rows = read_yaml(path, "claims")
    kinds = _kinds(read_mapping(path).get("kinds", {}), path)
    claims = tuple(_claim(row, f"claims.{number}", kinds, path) for number, row in enumerate(rows))
    for what, said in (("name", _name), ("comparison", _comparison)):
        counts = Counter(said(claim) for claim in claims)
        if twice := [value for value, count in counts.items() if count > 1]:
            raise ValueError(f"{path}: the {what} {twice[0]} stands twice: a claim counts once in its family")
    return claims


def _name(claim: Claim) -> str:
    return repr(claim.name)


def _comparison(claim: Claim) -> str:
    least = "" if claim.at_least is None else f", by at least {claim.at_least:g}"
    return f"{claim.arm!r} with {claim.other!r} by kind {claim.kind!r}{least}"


def _kinds(given: Any, path: Path) -> dict[str, ClaimKind]:
    if not isinstance(given, dict):
        raise ValueError(f"{path}: `kinds` holds kinds of claims by name, not {one_line(repr(given), 60)}")
    return {str(name): _checked(ClaimKind, kind, f"kinds.{name}", path) for name, kind in given.items()}


def _claim(row: Mapping[str, Any], place: str, kinds: Mapping[str, ClaimKind], path: Path) -> Claim:
    checked = _checked(ClaimRow, row, place, path)
    if checked.kind not in kinds:
        near = did_you_mean(checked.kind, kinds) or f"; it has {', '.join(kinds) or 'none'}"
        raise ValueError(f"{path}: {place}.kind: {checked.kind!r} is not one of the file's `kinds`{near}")
    return Claim(**checked.model_dump(), **kinds[checked.kind].model_dump())


def _checked(model: type[Checked], row: Any, place: str, path: Path) -> Checked:
    try:
        return model.model_validate(row)
    except ValidationError as error:
        raise ValueError(f"{path}: {refusal(error, place, model)}") from error
