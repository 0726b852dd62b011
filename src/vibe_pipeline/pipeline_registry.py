"""The graph, built from the tables `stage1`, `adapters` and `arms` of the parameters."""

from kedro.pipeline import Pipeline

from vibe_pipeline.experiment.load import read_parameters
from vibe_pipeline.experiment.loader import loader_of
from vibe_pipeline.experiment.tables import Experiment
from vibe_pipeline.generation.methods import checked_tables
from vibe_pipeline.pipelines import (
    ablation_report,
    base_model,
    data_processing,
    generation,
    relay_stage1,
    relay_stage2,
    vbench_eval,
)

_chosen: list[Experiment] = []


def use_tables(tables: Experiment) -> None:
    """Set the tables; Kedro calls :func:`register_pipelines` without arguments, after the context exists."""
    _chosen[:] = [tables]


def _tables_of_environment() -> Experiment:
    """For commands that list the graph without a context, such as `kedro registry list`."""
    return checked_tables(read_parameters(loader_of()))


def register_pipelines() -> dict[str, Pipeline]:
    """All pipelines by name; `__default__` is the whole experiment, `base_model` is run by hand."""
    tables = _chosen[0] if _chosen else _tables_of_environment()
    if tables.stop_after_preview:
        preview = generation.create_pipeline(tables)
        return {"generation": preview, "base_model": base_model.create_pipeline(), "__default__": preview}
    named = {
        "data_processing": data_processing.create_pipeline(),
        "relay_stage1": relay_stage1.create_pipeline(tables),
        "relay_stage2": relay_stage2.create_pipeline(tables),
        "generation": generation.create_pipeline(tables),
        "vbench_eval": vbench_eval.create_pipeline(tables),
        "ablation_report": ablation_report.create_pipeline(tables),
    }
    return named | {"base_model": base_model.create_pipeline(), "__default__": sum(named.values(), Pipeline([]))}
