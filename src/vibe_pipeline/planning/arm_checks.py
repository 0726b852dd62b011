"""What preflight asks of arms and the base together: adapters that the base can take up, and that do something."""

from collections.abc import Mapping

from vibe_pipeline.diffusion.checkpoint import find_model
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.generation.methods import method_of
from vibe_pipeline.planning.expert_loads import split


def check_arms(model: ModelParams, arms: Mapping[str, ArmParams]) -> None:
    """Refuse rows that the base cannot run as they say.

    Raises:
        ValueError: Names the row, the field and the way out.
    """
    check_quantised(model, arms)
    check_experts_adapters(model, arms)


def check_quantised(model: ModelParams, arms: Mapping[str, ArmParams]) -> None:
    """Refuse files that change whole tensors of a base whose weights are quantised.

    Raises:
        ValueError: Names the row and the way out.
    """
    for name, arm in arms.items():
        if model.quantisation is not None and any(extra.differences for extra in arm.extra_adapters):
            raise ValueError(
                f"arms.{name}.extra_adapters change whole tensors of the base, which model.quantisation "
                f"{model.quantisation} cannot take up: set it to null, or take differences out"
            )


def check_experts_adapters(model: ModelParams, arms: Mapping[str, ArmParams]) -> None:
    """Refuse adapters, or weights of a row's own, on an expert that no noise level of the row asks for.

    Raises:
        ValueError: Names the row, the expert, and what would bring it to work.
    """
    boundary = find_model(model.path).boundary
    if boundary is None:
        return
    for name, arm in arms.items():
        method = method_of(arm)
        if not method.runs_transformer or arm.stages:  # stages have levels of their own
            continue
        high, low = split(method.levels(arm, model.flow_shift), boundary)
        idle = {"high": not high, "low": not low}
        own = "low" if arm.adapter or arm.transformer else None
        for which in filter(None, (own, *(extra.expert for extra in arm.extra_adapters))):
            if idle[which]:
                every, (side, way_out) = [*high, *low], _SIDES[which]
                raise ValueError(
                    f"arms.{name}: an adapter or weights are the {which}-noise expert's, and all {len(every)} steps, "
                    f"at sigma {max(every):.3g} to {min(every):.3g}, lie {side} the boundary {boundary:g}, where the "
                    f"other works: {way_out}"
                )


_SIDES = {
    "high": ("below", "raise strength or flow_shift, or leave the adapter out"),
    "low": ("above", "take more steps, lower strength or flow_shift, or leave the adapter out"),
}
"""Where the levels of a row lie that an expert has none of, and what gives it some."""
