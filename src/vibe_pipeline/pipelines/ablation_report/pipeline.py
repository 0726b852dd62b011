"""The ablation_report pipeline."""

from kedro.pipeline import Node, Pipeline

from vibe_pipeline.experiment.tables import Experiment
from vibe_pipeline.pipelines.ablation_report import nodes
from vibe_pipeline.pipelines.rows import named

CHECKS = ("degradation_checks", "image_quarantine", "vbench_manifest", "not_run_arms")
PAGE_TABLES = ("scores", "clips", "spectra", "trainings", "earlier_looks", *CHECKS)


def create_pipeline(tables: Experiment) -> Pipeline:
    """The table, the arms' MLflow runs, the page."""
    return Pipeline([*_gathering(tables), *_judging(), *_publishing()], tags="ablation_report")


def _gathering(tables: Experiment) -> list[Node]:
    """What was asked for, what was left out and what was trained, each as one dataset."""
    stage1 = sorted({row.start for row in tables.adapters.values()} & set(tables.stage1))
    trained = named("adapter", tables.adapters) | named("stage1", stage1)
    groups = ["params:stage1", "params:adapters", "params:arms", "params:evaluation"]
    return [
        Node(nodes.check_tables, groups, "tables", name="check_tables"),
        Node(nodes.list_not_run, "params:not_run", "not_run_arms", name="list_not_run"),
        Node(nodes.gather_trainings, trained, "trainings", name="gather_trainings", namespace="adapters"),
    ]


def _judging() -> list[Node]:
    """The table and the claims' verdicts."""
    return [
        Node(
            nodes.make_table,
            ["tables", "scores", "params:evaluation", "not_run_arms"],
            "ablation_table",
            name="make_table",
        ),
        Node(
            nodes.note_looks,
            _parameters("claims", "generation", "folders") | _same("tables", "clips"),
            "earlier_looks",
            name="note_looks",
        ),
        Node(
            nodes.tabulate_claims,
            _parameters("claims", "evaluation", "generation") | _same("tables", "scores", "earlier_looks"),
            "claims_table",
            name="tabulate_claims",
        ),
    ]


def _publishing() -> list[Node]:
    """The arms' MLflow runs and the page."""
    return [
        Node(
            nodes.log_arms,
            _parameters("tracking", "evaluation", "generation")
            | _same("tables", "scores", "clips", "trainings", "ablation_table"),
            "tracked_arms",
            name="log_arms",
        ),
        Node(
            nodes.write_page,
            _parameters("evaluation", "generation", "report", "claims", "published", "model", "folders")
            | _same("tables", "ablation_table", *PAGE_TABLES),
            "report",
            name="write_page",
        ),
    ]


def _same(*names: str) -> dict[str, str]:
    """Datasets that a node takes under their own names."""
    return {name: name for name in names}


def _parameters(*groups: str) -> dict[str, str]:
    return {group: f"params:{group}" for group in groups}
