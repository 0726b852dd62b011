"""Whether looks at a growing number of prompts can be made; asked before the first of them."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from vibe_pipeline.evaluation.bootstrap import Bootstrap
from vibe_pipeline.evaluation.sequential import look_of
from vibe_pipeline.experiment.evaluation import EvaluationParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.experiment.sequential import at_look
from vibe_pipeline.generation.prompts import load_prompts
from vibe_pipeline.planning.checks import Check

FIELD = "generation.sequential"


def look_checks(params: Mapping[str, Any]) -> Iterator[Check]:
    """What the looks need, where there are several: prompts for the last, enough for the first, something to tell."""
    planned = GenerationParams(**params["generation"]).sequential
    if planned is None:
        return
    most, fewest = planned.blocks[-1], Bootstrap(confidence=EvaluationParams(**params["evaluation"]).confidence)
    fix = "end the blocks at as many prompts as there are, or give more of them"
    yield Check(FIELD, partial(_prompts, GenerationParams(**at_look(params, -1)["generation"]), most), fix)
    fix = f"begin with {fewest.fewest_pairs} or more"
    yield Check(f"{FIELD}.blocks", partial(_first, planned.blocks[0], fewest.fewest_pairs), fix)
    yield Check(FIELD, partial(_claims, params.get("claims", ())), "give the environment a claims.yml, or leave it out")


def check_look(params: Mapping[str, Any]) -> None:
    """Refuse looks that cannot be made, and a run between two of them.

    Raises:
        ValueError: Names the field and the value.
    """
    for check in look_checks(params):
        check.look()
    look_of(GenerationParams(**params["generation"]))


def _prompts(generation: GenerationParams, most: int) -> str:
    try:
        there = load_prompts(generation.model_copy(update={"shard": None}))["prompt_index"].nunique()
    except ValueError as error:  # lists that refuse to give more than they have
        raise ValueError(f"{FIELD}.blocks end at {most} prompts: {error}") from error
    if there < most:
        raise ValueError(
            f"{FIELD}.blocks end at {most} prompts, and generation.prompts {generation.prompts} has {there} after "
            f"generation.skip {generation.skip}: each look may tell a share of what the last may, which must be there"
        )
    return f"there are prompts for the last look, {most}"


def _first(prompts: int, fewest: int) -> str:
    if prompts < fewest:
        raise ValueError(f"{FIELD}.blocks begin with {prompts} prompts; fewer than {fewest} can tell nothing")
    return f"the first look is at {prompts} prompts"


def _claims(claims: Any) -> str:
    if not claims:
        raise ValueError(f"{FIELD} grows a run until its claims are told, and this environment has no claims")
    return f"{len(claims)} claims are to be told"
