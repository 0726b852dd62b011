"""ablation_report: the table, the claims, the page."""

from vibe_pipeline.pipelines.ablation_report.pipeline import create_pipeline

__all__ = ["create_pipeline"]
