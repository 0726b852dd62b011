"""Project settings; see the Kedro documentation."""

from vibe_pipeline.experiment.loader import LayeredLoader
from vibe_pipeline.hooks import GraphHooks, RehearsalHooks, RunHooks, TrackingHooks, WorkflowHooks

# Of one kind the last is called first: nothing is tracked of a rehearsal.
HOOKS = (GraphHooks(), WorkflowHooks(), RunHooks(), TrackingHooks(), RehearsalHooks())
CONFIG_LOADER_CLASS = LayeredLoader
CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    "config_patterns": {
        "parameters": ["parameters*", "parameters*/**", "**/parameters*", "experiment*"],
        "claims": ["claims.yml"],
        "published": ["published.yml"],
    },
}
