"""The relay_stage2 pipeline: one branch per row of `adapters`."""

from kedro.pipeline import Node, Pipeline

from vibe_pipeline.experiment.tables import Experiment
from vibe_pipeline.pipelines.relay_stage2 import nodes
from vibe_pipeline.pipelines.rows import for_row, resources


def create_pipeline(tables: Experiment) -> Pipeline:
    """One node per stage-2 adapter, on its stage 1 or on the base."""
    return Pipeline(
        [
            Node(
                for_row(nodes.train_resolution, name),
                _inputs(name, tables),
                f"adapter-{name}",
                name="train",
                namespace=f"adapters.{name}",
                tags=resources(gpus=row.processes, cpus=row.processes),
            )
            for name, row in tables.adapters.items()
        ],
        tags="relay_stage2",
    )


def _inputs(name: str, tables: Experiment) -> dict[str, str]:
    row = tables.adapters[name]
    inputs = {
        "latent_cache": "latent_cache",
        "degradation_checks": "degradation_checks",
        "model": "params:model",
        "folders": "params:folders",
        "row": f"params:adapters.{name}",
    }
    if row.start != "base":
        inputs["stage1"] = f"stage1-{row.start}"
    if row.validation_clips:
        arm = tables.arm_of(name)
        inputs |= {"generation": "params:generation", "arm": f"params:arms.{arm}"}
    return inputs
