"""generation: native clips, then every arm's clips."""

from vibe_pipeline.pipelines.generation.pipeline import create_pipeline, gather_clips

__all__ = ["create_pipeline", "gather_clips"]
