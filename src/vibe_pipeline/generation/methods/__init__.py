"""How an arm's clips can be made: `METHODS` lists every way, one file of this folder each.

To add one, write its file (a subclass of `Method`: its name, `describe`, `prepare`) and list it below; the graph, the
plan, the checks, the scores and the report take the rest from the entry.
"""

from collections.abc import Mapping
from typing import Any

from vibe_pipeline.diffusion.step_cache import step_cache_of
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.load import ParameterError, experiment_of
from vibe_pipeline.experiment.tables import Experiment
from vibe_pipeline.generation.methods.base import ArmJob, Bound, Method, Workload
from vibe_pipeline.generation.methods.cascade import Cascade
from vibe_pipeline.generation.methods.denoising import DenoisingMethod
from vibe_pipeline.generation.methods.direct import Direct
from vibe_pipeline.generation.methods.external import External
from vibe_pipeline.generation.methods.freeswim import FreeSwim
from vibe_pipeline.generation.methods.linear import Linear
from vibe_pipeline.generation.methods.refine import Refine
from vibe_pipeline.generation.methods.sr import SuperResolution
from vibe_pipeline.generation.methods.truth import Truth
from vibe_pipeline.generation.methods.upsample import Upsample

METHODS: dict[str, Method] = {
    m.name: m
    for m in (
        Refine(),
        FreeSwim(),
        Direct(),
        Cascade(),
        Upsample(),
        Linear(),
        SuperResolution(),
        Truth(),
        External(),
    )
}

__all__ = [
    "METHODS",
    "ArmJob",
    "Bound",
    "DenoisingMethod",
    "Method",
    "Workload",
    "check_arm",
    "checked_tables",
    "counting_settings",
    "method_of",
]


def method_of(arm: ArmParams) -> Method:
    """The entry of a row's method.

    Raises:
        ValueError: There is none of that name; lists those there are.
    """
    if arm.method not in METHODS:
        raise ValueError(f"method: unknown method {arm.method!r}; known: {', '.join(METHODS)}")
    return METHODS[arm.method]


def checked_tables(params: Mapping[str, Any]) -> Experiment:
    """The tables of a parameters dictionary, their sweeps unfolded, every row of `arms` checked against its method.

    Raises:
        ParameterError: A row is wrong, or contradicts another or its method; names the field and the value.
    """
    tables = experiment_of(params)
    for name, arm in tables.arms.items():
        try:
            check_arm(arm)
            _check_clips(arm, params.get("generation", {}))
        except ValueError as error:
            raise ParameterError(f"arms.{name}: {error}") from None
    return tables


def check_arm(arm: ArmParams) -> None:
    """Refuse a row that contradicts its method.

    Raises:
        ValueError: Names the field and its value.
    """
    method = method_of(arm)
    if (arm.adapter or arm.extra_adapters) and not method.runs_transformer:
        raise ValueError(f"method {arm.method!r} runs no transformer: an adapter would do nothing")
    if arm.transformer is not None and not method.runs_transformer:
        raise ValueError(f"method {arm.method!r} runs no transformer: weights of its own would do nothing")
    if arm.step_cache is not None and not method.runs_transformer:
        raise ValueError(f"method {arm.method!r} runs no transformer: a step_cache would do nothing")
    if arm.unconditional_attention is not None and not method.runs_transformer:
        raise ValueError(f"method {arm.method!r} runs no transformer: unconditional_attention would do nothing")
    for field in sorted(frozenset().union(*(m.own_fields for m in METHODS.values())) - method.own_fields):
        if getattr(arm, field) is not None:
            owners = " and ".join(m.name for m in METHODS.values() if field in m.own_fields)
            raise ValueError(f"{field} belongs to {owners}, not to method {arm.method!r}")
    method.check(arm)


def counting_settings(arm: ArmParams) -> dict[str, Any]:
    """The settings of a row that its method reads and that are set: one that does nothing is not a setting of it."""
    method = method_of(arm)
    foreign = frozenset().union(*(m.own_fields for m in METHODS.values())) - method.own_fields
    if not (method.second_pass or arm.stages):
        foreign |= {"strength", "strength_mode"}
    read = set(ArmParams.model_fields) - foreign if method.runs_transformer else method.own_fields
    found = arm.model_dump(mode="json", include={"label", "method", *read} - {"optional"}, exclude_none=True)
    found |= {name: getattr(arm, name).counting() for name in ("attention", "rope") if name in found}
    return {name: value for name, value in found.items() if value not in ([], {}, False)}


def _check_clips(arm: ArmParams, generation: Mapping[str, Any]) -> None:
    """A clip must not depend on which others it is made with."""
    cache, batch_size = step_cache_of(arm.step_cache), generation.get("batch_size", 1)
    if cache is not None and cache.by_batch and batch_size > 1:
        raise ValueError(
            f"step_cache {cache.name!r} decides for a whole batch: set generation.batch_size, {batch_size}, to 1"
        )
    if cache is not None and cache.calibrates and generation.get("shard"):
        raise ValueError(
            f"step_cache {cache.name!r} is calibrated on a run's first clip, which is another in each shard: name "
            "step_cache.ratios, a file that a run without generation.shard wrote"
        )
