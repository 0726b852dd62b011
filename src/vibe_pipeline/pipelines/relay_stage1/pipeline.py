"""The relay_stage1 pipeline: one branch per row of `stage1` that an adapter starts from."""

from kedro.pipeline import Node, Pipeline

from vibe_pipeline.experiment.tables import Experiment
from vibe_pipeline.pipelines.relay_stage1 import nodes
from vibe_pipeline.pipelines.rows import for_row, resources


def create_pipeline(tables: Experiment) -> Pipeline:
    """One node per stage-1 adapter; rows that start from the same one share it."""
    needed = {row.start for row in tables.adapters.values()} & set(tables.stage1)
    return Pipeline(
        [
            Node(
                for_row(nodes.train_modality, name),
                ["latent_cache", "params:model", "params:folders", f"params:stage1.{name}"],
                f"stage1-{name}",
                name="train",
                namespace=f"stage1.{name}",
                tags=resources(gpus=tables.stage1[name].processes, cpus=tables.stage1[name].processes),
            )
            for name in sorted(needed)
        ],
        tags="relay_stage1",
    )
