"""Project settings; see the Kedro documentation."""

from vibe_pipeline.hooks import GraphHooks, RunHooks, TrackingHooks

HOOKS = (GraphHooks(), RunHooks(), TrackingHooks())
