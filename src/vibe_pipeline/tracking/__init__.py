"""All MLflow calls: one parent run per `kedro run`, one child per adapter and per arm.

MLflow's active run is per thread and Kedro's runners use threads and processes, so run ids are passed
explicitly: the parent's travels to worker processes in the environment. Without a parent (a notebook, a test
of a node) nothing is tracked.
"""

from vibe_pipeline.io.redact import redact
from vibe_pipeline.tracking.children import TrackedAdapter, tracked_adapter, tracked_arm
from vibe_pipeline.tracking.monitor import start_monitor
from vibe_pipeline.tracking.parent import end_parent, git_commit, start_parent
from vibe_pipeline.tracking.runs import (
    LONGEST_PARAM,
    PARENT,
    URI,
    Tracked,
    flatten,
    log_artifact,
    log_node_seconds,
    parent_run,
    run_address,
)

__all__ = [
    "LONGEST_PARAM",
    "PARENT",
    "URI",
    "Tracked",
    "TrackedAdapter",
    "end_parent",
    "flatten",
    "git_commit",
    "log_artifact",
    "log_node_seconds",
    "parent_run",
    "redact",
    "run_address",
    "start_monitor",
    "start_parent",
    "tracked_adapter",
    "tracked_arm",
]
