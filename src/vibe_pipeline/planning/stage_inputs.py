"""Whether what a run's nodes take is made by themselves or is there already; asked before the first node."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from vibe_pipeline.experiment.loader import env_option

if TYPE_CHECKING:
    from kedro.io import CatalogProtocol
    from kedro.pipeline import Pipeline

DEFAULT = "__default__"
NAMED = 3
"""How many datasets of a stage are named."""


def require_inputs(
    pipeline: "Pipeline", catalog: "CatalogProtocol", stages: Mapping[str, "Pipeline"], env: str | None = None
) -> None:
    """Refuse a part of the graph that takes what another stage makes and has not made yet.

    Args:
        pipeline: What is to be run.
        catalog: Says what is there.
        stages: Every registered pipeline by its name, in the order in which they run.
        env: The environment, for the command that is told.

    Raises:
        FileNotFoundError: Names what is missing, the stages that make it, and the command that runs them.
    """
    made_by = {made: name for name, stage in stages.items() if name != DEFAULT for made in stage.all_outputs()}
    lacking = _lacking(pipeline, catalog, made_by)
    if not lacking:
        return
    needed, ahead = set(lacking), list(lacking)
    while ahead:  # what makes it may itself be too early
        more = _lacking(stages[ahead.pop()], catalog, made_by).keys() - needed
        needed |= more
        ahead += more
    said = "; ".join(_said(stage, names) for stage, names in lacking.items())
    first = ",".join(name for name in stages if name in needed)
    raise FileNotFoundError(f"{said}. Run first: kedro run{env_option(env)} --pipelines={first}")


def _lacking(pipeline: "Pipeline", catalog: "CatalogProtocol", made_by: Mapping[str, str]) -> dict[str, list[str]]:
    """What a pipeline takes that is not there, by the stage that makes it."""
    found: dict[str, list[str]] = {}
    for name in sorted(pipeline.inputs()):
        if name in made_by and not catalog.exists(name):
            found.setdefault(made_by[name], []).append(name)
    return found


def _said(stage: str, names: list[str]) -> str:
    verb, them = ("is", "it") if len(names) == 1 else ("are", "them")
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{rest} {verb} not there yet, {stage} makes {them}"
