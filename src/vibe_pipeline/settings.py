"""Project settings; see the Kedro documentation."""

from vibe_pipeline.hooks import GraphHooks, RehearsalHooks, RunHooks, TrackingHooks
from vibe_pipeline.loader import LayeredLoader

# Of one kind the last is called first: nothing is tracked of a rehearsal.
HOOKS = (GraphHooks(), RunHooks(), TrackingHooks(), RehearsalHooks())
CONFIG_LOADER_CLASS = LayeredLoader
