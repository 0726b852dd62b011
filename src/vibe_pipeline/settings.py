"""Project settings; see the Kedro documentation."""

from vibe_pipeline.hooks import GraphHooks, RunHooks, TrackingHooks
from vibe_pipeline.loader import LayeredLoader

HOOKS = (GraphHooks(), RunHooks(), TrackingHooks())
CONFIG_LOADER_CLASS = LayeredLoader
