"""Project settings; see the Kedro documentation."""

from vibe_pipeline.experiment.loader import LayeredLoader
from vibe_pipeline.hooks import GraphHooks, RehearsalHooks, RunHooks, TerminalHooks, TrackingHooks, WorkflowHooks
from vibe_pipeline.runtime.terminal import hush

# Kedro imports this in every process, before it reads a file that OmegaConf would warn of.
hush()

# Of one kind the last is called first: nothing is tracked of a rehearsal.
HOOKS = (TerminalHooks(), GraphHooks(), WorkflowHooks(), RunHooks(), TrackingHooks(), RehearsalHooks())
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
