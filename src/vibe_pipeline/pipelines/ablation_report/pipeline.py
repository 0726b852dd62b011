"""The ablation_report pipeline."""

from kedro.pipeline import Node, Pipeline

from vibe_pipeline.experiment.tables import Tables
from vibe_pipeline.pipelines.ablation_report import nodes


def create_pipeline(tables: Tables) -> Pipeline:
    """The table, the arms' MLflow runs, the page."""
    clips = [f"clips-{arm}" for arm in tables.arms]
    spectra = [f"spectrum-{arm}" for arm in tables.arms]
    adapters = [f"adapter-{name}" for name in tables.adapters]
    stage1 = [f"stage1-{name}" for name in sorted({row.start for row in tables.adapters.values()} & set(tables.stage1))]
    return Pipeline(
        [
            Node(
                nodes.check_tables,
                ["params:stage1", "params:adapters", "params:arms", "params:evaluation"],
                "tables",
                name="check_tables",
            ),
            Node(nodes.make_table, ["tables", "scores", "params:evaluation"], "ablation_table", name="make_table"),
            Node(
                nodes.log_arms,
                ["tables", "params:tracking", "params:evaluation", "scores", "ablation_table", *clips, *adapters],
                "tracked_arms",
                name="log_arms",
            ),
            Node(
                nodes.write_page,
                [
                    "tables",
                    "params:evaluation",
                    "params:report",
                    "params:claims",
                    "params:published",
                    "params:model",
                    "ablation_table",
                    "scores",
                    "degradation_checks",
                    "image_quarantine",
                    "vbench_manifest",
                    *clips,
                    *spectra,
                    *adapters,
                    *stage1,
                ],
                "report",
                name="write_page",
            ),
        ],
        tags="ablation_report",
    )
