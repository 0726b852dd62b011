"""vbench_eval: scores of every clip."""

from vibe_pipeline.pipelines.vbench_eval.pipeline import create_pipeline

__all__ = ["create_pipeline"]
