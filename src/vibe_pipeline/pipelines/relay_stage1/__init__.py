"""relay_stage1: the image modality."""

from vibe_pipeline.pipelines.relay_stage1.pipeline import create_pipeline

__all__ = ["create_pipeline"]
