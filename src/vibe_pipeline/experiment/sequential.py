"""`generation.sequential`: looks at a growing number of prompts, fixed before the first of them."""

import itertools
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, field_validator

from vibe_pipeline.experiment.groups import Params

Spending = Literal["obrien_fleming", "pocock"]


class SequentialParams(Params):
    """A run that grows in blocks until its claims are told: `kedro vibe grow`."""

    blocks: Annotated[tuple[PositiveInt, ...], Field(min_length=2)] = Field(
        description="prompts at each look, from the first to the most there may be; rising, fixed before the first look"
    )
    spending: Spending = Field(
        "obrien_fleming",
        description="how the chance of a false verdict is shared out over the looks (Lan and DeMets, 1983): "
        "obrien_fleming spends next to nothing early and nearly all at the last look, pocock about alike at each",
    )

    @field_validator("blocks")
    @classmethod
    def _blocks_rise(cls, blocks: tuple[int, ...]) -> tuple[int, ...]:
        for before, after in itertools.pairwise(blocks):
            if after <= before:
                raise ValueError(f"each look needs more prompts than the one before: {after} follows {before}")
        return blocks


def blocks_of(params: Mapping[str, Any]) -> tuple[int, ...]:
    """Prompts at each look of these parameters; none where the run does not grow."""
    given = params["generation"].get("sequential")
    return SequentialParams(**given).blocks if given else ()


def at_look(params: Mapping[str, Any], number: int) -> dict[str, Any]:
    """The parameters with as many prompts as a look has, counted from 1; -1 is the last.

    Those of a run that does not grow stay as they are.
    """
    blocks = blocks_of(params)
    if not blocks:
        return dict(params)
    count = blocks[number - 1 if number > 0 else number]
    return {**params, "generation": {**params["generation"], "count": count}}
