"""data_processing: find, check and encode the training images."""

from vibe_pipeline.pipelines.data_processing.pipeline import create_pipeline

__all__ = ["create_pipeline"]
