"""relay_stage2: high resolution."""

from vibe_pipeline.pipelines.relay_stage2.pipeline import create_pipeline

__all__ = ["create_pipeline"]
