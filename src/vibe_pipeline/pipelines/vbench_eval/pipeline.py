"""The vbench_eval pipeline."""

from kedro.pipeline import Node, Pipeline

from vibe_pipeline.experiment.tables import Experiment
from vibe_pipeline.pipelines.rows import for_row, named, resources
from vibe_pipeline.pipelines.vbench_eval import nodes

GROUPS = ("evaluation", "generation", "model", "folders")


def create_pipeline(tables: Experiment) -> Pipeline:
    """VBench over all arms, own measures per arm, one table with what is made of them."""
    return Pipeline(
        [
            Node(
                nodes.run_vbench,
                {group: f"params:{group}" for group in GROUPS} | {"clips": "clips"},
                ["vbench_scores", "vbench_manifest"],
                name="run_vbench",
                tags=resources(gpus=1),
            ),
            *[
                Node(
                    for_row(nodes.measure, arm),
                    [f"clips-{arm}", "native_clips", *(f"params:{group}" for group in GROUPS)],
                    [f"scores-{arm}", f"spectrum-{arm}"],
                    name="measure",
                    namespace=f"arms.{arm}",
                )
                for arm in tables.arms
            ],
            Node(
                nodes.gather_measured,
                named("scores", tables.arms) | named("spectrum", tables.arms),
                ["own_scores", "spectra"],
                name="gather_measured",
                namespace="arms",
            ),
            Node(
                nodes.collect_scores,
                ["params:evaluation", "vbench_scores", "own_scores"],
                "scores",
                name="collect_scores",
            ),
        ],
        tags="vbench_eval",
    )
