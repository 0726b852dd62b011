"""The graph, built from the tables `stage1`, `adapters` and `arms` of the parameters."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kedro.config import OmegaConfigLoader
from kedro.framework.project import settings
from kedro.pipeline import Pipeline
from pydantic import ValidationError

from vibe_pipeline.config import Tables
from vibe_pipeline.messages import refusal
from vibe_pipeline.parameters import ParameterError
from vibe_pipeline.pipelines import (
    ablation_report,
    base_model,
    data_processing,
    generation,
    relay_stage1,
    relay_stage2,
    vbench_eval,
)
from vibe_pipeline.sweeps import unfold

_chosen: list[Tables] = []


def use_tables(tables: Tables) -> None:
    """Set the tables; Kedro calls :func:`register_pipelines` without arguments, after the context exists."""
    _chosen[:] = [tables]


def tables_of(params: Mapping[str, Any]) -> Tables:
    """The tables of a parameters dictionary, their sweeps unfolded, checked against each other.

    Raises:
        ParameterError: A row is wrong, or contradicts another; names the field and the value.
    """
    params = unfold(params)
    try:
        return Tables(
            stage1=params["stage1"],
            adapters=params["adapters"],
            arms=params["arms"],
            reference_arm=params["evaluation"]["reference_arm"],
            stop_after_preview=params["generation"].get("stop_after_preview", False),
        )
    except ValidationError as error:
        raise ParameterError(refusal(error)) from None


def _tables_of_environment() -> Tables:
    """For commands that list the graph without a context, such as `kedro registry list`."""
    source = str(Path.cwd() / settings.CONF_SOURCE)
    loader = OmegaConfigLoader(source, env=os.environ.get("KEDRO_ENV"), base_env="base", default_run_env="local")
    return tables_of(loader["parameters"])


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
