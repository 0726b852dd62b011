"""The generation pipeline: one branch per row of `arms`, all from the same native clips.

Kedro runs nodes by their depth in the graph and, at one depth, by name, so arms without an adapter come before the
trainings of stage 2. An edge that only orders them would make them wait for trainings in every partial run and on every
cluster; that a training would crash is found by a rehearsal before.
"""

from collections.abc import Callable
from typing import Any

from kedro.pipeline import Node, Pipeline

from vibe_pipeline.experiment.tables import Experiment
from vibe_pipeline.generation.methods import method_of
from vibe_pipeline.pipelines.generation import nodes
from vibe_pipeline.pipelines.rows import for_row, named, resources

PARAMS = ["params:model", "params:generation", "params:folders"]
GPU = resources(gpus=1)


def create_pipeline(tables: Experiment) -> Pipeline:
    """Prompts, native clips and their preview; then, unless the run stops there, true renders and arms."""
    first = [
        Node(nodes.list_prompts, "params:generation", "prompts", name="list_prompts"),
        Node(nodes.render_native, ["prompts", *PARAMS], "native_clips", name="render_native", tags=GPU),
        Node(
            nodes.show_preview,
            ["native_clips", "params:tracking", "params:folders"],
            "preview",
            name="show_preview",
        ),
    ]
    if tables.stop_after_preview:
        return Pipeline(first, tags="generation")
    references = Node(nodes.render_references, ["prompts", *PARAMS], "reference_clips", name="render_references")
    if any(method_of(arm).uses_stills for arm in tables.arms.values()):
        first.append(
            Node(
                nodes.fit_linear_filter,
                ["usable_images", "params:model", "params:data", "params:folders"],
                "linear_filter",
                name="fit_linear_filter",
            )
        )
    arms = [_arm(name, tables) for name in tables.arms]
    return Pipeline([*first, references, *arms, gather_clips(tables)], tags="generation")


def gather_clips(tables: Experiment) -> Node:
    """The joint table of all arms' clips, which alone leaves their namespace."""
    clips = named("clips", tables.arms)
    return Node(nodes.gather_clips, clips, "clips", name="gather_clips", namespace="arms")


def _arm(name: str, tables: Experiment) -> Node:
    arm = tables.arms[name]
    inputs = ["native_clips", "preview", "reference_clips", *PARAMS, f"params:arms.{name}"]
    if arm.adapter is not None:
        inputs.append(f"adapter-{arm.adapter}")
        if arm.keep_stage1:
            inputs.append(f"stage1-{tables.adapters[arm.adapter].start}")
    method = method_of(arm)
    function: Callable[..., Any] = nodes.render_arm
    if method.uses_stills:
        function = nodes.render_filtered_arm
        inputs.append("linear_filter")
    tags = GPU if method.uses_device else []
    return Node(for_row(function, name), inputs, f"clips-{name}", name="generate", namespace=f"arms.{name}", tags=tags)
