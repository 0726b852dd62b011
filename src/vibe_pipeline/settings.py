"""Project settings; see the Kedro documentation."""

from vibe_pipeline.hooks import GraphHooks, TrackingHooks

HOOKS = (GraphHooks(), TrackingHooks())
