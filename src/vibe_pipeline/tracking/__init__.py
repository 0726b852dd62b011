"""All MLflow calls: one parent run per `kedro run`, one child per adapter and per arm.

MLflow's active run is per thread and Kedro's runners use threads and processes, so run ids are passed
explicitly: the parent's travels to worker processes in the environment. Without a parent (a notebook, a test
of a node) nothing is tracked.
"""

from vibe_pipeline.io.redact import redact
from vibe_pipeline.tracking.arms import CONTENT, PLACE, model_of, place_arms, same_arms, tracked_arm
from vibe_pipeline.tracking.children import TrackedAdapter, tracked_adapter
from vibe_pipeline.tracking.inputs import images_input, prompts_input
from vibe_pipeline.tracking.monitor import start_monitor
from vibe_pipeline.tracking.parent import (
    changes,
    end_parent,
    git_commit,
    part_of,
    run_name,
    run_parameters,
    run_tags,
    start_parent,
)
from vibe_pipeline.tracking.runs import (
    CLIP,
    LONGEST_PARAM,
    PARENT,
    URI,
    WORKFLOW,
    Tracked,
    flatten,
    log_artifact,
    log_node_seconds,
    parent_run,
    picture_key,
    run_address,
)
from vibe_pipeline.tracking.views import View, kept_view

__all__ = [
    "CLIP",
    "CONTENT",
    "LONGEST_PARAM",
    "PARENT",
    "PLACE",
    "URI",
    "WORKFLOW",
    "Tracked",
    "TrackedAdapter",
    "View",
    "changes",
    "end_parent",
    "flatten",
    "git_commit",
    "images_input",
    "kept_view",
    "log_artifact",
    "log_node_seconds",
    "model_of",
    "parent_run",
    "part_of",
    "picture_key",
    "place_arms",
    "prompts_input",
    "redact",
    "run_address",
    "run_name",
    "run_parameters",
    "run_tags",
    "same_arms",
    "start_monitor",
    "start_parent",
    "tracked_adapter",
    "tracked_arm",
]
