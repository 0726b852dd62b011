"""The relay_stage2 pipeline: one branch per row of `adapters`."""

from kedro.pipeline import Node, Pipeline

from vibe_pipeline.config import Tables
from vibe_pipeline.pipelines.relay_stage2 import nodes
from vibe_pipeline.pipelines.rows import for_row


def create_pipeline(tables: Tables) -> Pipeline:
    """One node per stage-2 adapter, on its stage 1 or on the base."""
    return Pipeline(
        [
            Node(
                for_row(nodes.train_resolution, name),
                [
                    "latent_cache",
                    "degradation_checks",
                    "params:model",
                    f"params:adapters.{name}",
                    *([f"stage1-{row.start}"] if row.start != "base" else []),
                ],
                f"adapter-{name}",
                name=f"train_stage2_{name}",
            )
            for name, row in tables.adapters.items()
        ],
        tags="relay_stage2",
    )
