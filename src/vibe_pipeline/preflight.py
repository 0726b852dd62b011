"""What is checked before the first node runs: that models and files are there and sizes fit one another."""

from collections.abc import Mapping
from typing import Any

from vibe_pipeline.config import RUNS_TRANSFORMER, DataParams, GenerationParams, ModelParams, Tables
from vibe_pipeline.diffusion.models import find_model, require_fitting_size, tile_stride


def check_generation(model: ModelParams, generation: GenerationParams, tables: Tables) -> None:
    """Refuse sizes, files and folders that would stop a run after hours.

    Raises:
        ValueError: A size that does not fit VAE, patches or an arm's pooling; names the nearest that do.
        FileNotFoundError: The model, the prompts, an extra adapter or an external folder is not there.
    """
    found = find_model(model.path)
    require_fitting_size(found, model.native.height, model.native.width, "model.native")
    require_fitting_size(found, model.target.height, model.target.width, "model.target")
    if not isinstance(generation.prompts, str) and not generation.prompts.is_file():
        raise FileNotFoundError(f"generation.prompts: {generation.prompts} is no file; give a .txt, .csv or .jsonl")
    for name, arm in tables.arms.items():
        if arm.attention.kind == "gclf" and arm.method in RUNS_TRANSFORMER:
            what = f"arms.{name} with attention.pool {arm.attention.pool}: model.target"
            require_fitting_size(found, model.target.height, model.target.width, what, arm.attention.pool)
        for extra in arm.extra_adapters:
            if not extra.path.is_file():
                raise FileNotFoundError(f"arms.{name}.extra_adapters: {extra.path} is no file")
        if arm.path is not None and not arm.path.is_dir():
            raise FileNotFoundError(f"arms.{name}.path: {arm.path} is no folder")


def check_model(model: ModelParams) -> None:
    """Refuse a model that is not there, and a tile that its VAE cannot be cut into.

    Raises:
        FileNotFoundError: No such model.
        ValueError: Names the nearest tiles that fit.
    """
    found = find_model(model.path)
    if model.tile is not None:
        tile_stride(found.config_of("vae"), model.tile)


def check_training(data: DataParams, tables: Tables) -> None:
    """Refuse buckets that an adapter's pooled attention could not divide.

    Raises:
        ValueError: Names the adapter and both numbers.
    """
    for name, row in tables.adapters.items():
        pool = row.attention.pool
        if data.buckets == "aspect" and row.attention.kind == "gclf" and data.bucket_tokens % pool:
            raise ValueError(
                f"adapters.{name}.attention.pool {pool} does not divide data.bucket_tokens {data.bucket_tokens}: some "
                f"buckets would not fit; set bucket_tokens to a multiple of {pool}"
            )


def check_single_size(model: ModelParams, data: DataParams, tables: Tables) -> None:
    """Refuse a training size that an adapter's pooled attention could not divide, where all images are cut to it.

    Raises:
        ValueError: Names the adapter and the nearest sizes that fit.
    """
    for name, row in tables.adapters.items():
        if data.buckets == "single" and row.attention.kind == "gclf":
            what, pool = f"adapters.{name} with attention.pool {row.attention.pool}: data.high", row.attention.pool
            require_fitting_size(find_model(model.path), data.high.height, data.high.width, what, pool)


def check_parameters(params: Mapping[str, Any], tables: Tables, tags: set[str]) -> None:
    """Check what the nodes of a run will need, by their tags."""
    if tags & {"data_processing", "relay_stage2"}:
        check_training(DataParams(**params["data"]), tables)
    if tags & {"data_processing", "relay_stage1", "relay_stage2", "generation"}:
        check_model(ModelParams(**params["model"]))
    if tags & {"data_processing", "relay_stage2"}:
        check_single_size(ModelParams(**params["model"]), DataParams(**params["data"]), tables)
    if "generation" in tags:
        check_generation(ModelParams(**params["model"]), GenerationParams(**params["generation"]), tables)
