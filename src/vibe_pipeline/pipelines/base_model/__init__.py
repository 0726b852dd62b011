"""base_model: the miniature's own base, by hand."""

from vibe_pipeline.pipelines.base_model.pipeline import create_pipeline

__all__ = ["create_pipeline"]
