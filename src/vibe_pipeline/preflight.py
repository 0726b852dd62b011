"""What is checked before the first node runs: that models and files are there and sizes fit one another."""

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vibe_pipeline.config import (
    RUNS_TRANSFORMER,
    DataParams,
    EvaluationParams,
    GenerationParams,
    ModelParams,
    ReportParams,
    Tables,
)
from vibe_pipeline.diffusion.models import find_model, require_fitting_size
from vibe_pipeline.evaluation.aggregate import DIMENSIONS
from vibe_pipeline.evaluation.bootstrap import Bootstrap
from vibe_pipeline.evaluation.detail import high_frequency_share
from vibe_pipeline.evaluation.dimensions import dimension_of
from vibe_pipeline.evaluation.protocol import clips_per_dimension
from vibe_pipeline.generation.prompts import load_prompts

log = logging.getLogger(__name__)


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


def check_space(model: ModelParams, clips: int, arms: int, folder: Path) -> None:
    """Warn if the clips of a run may not fit the disk: each arm refuses to begin without room for its raw frames."""
    native, target = (s.height * s.width * s.frames * 3 for s in (model.native, model.target))
    needed, free = clips * (native + arms * target), shutil.disk_usage(folder).free
    if free < needed:
        log.warning(
            "the clips take up to %.1f GB (lossless files are smaller), and %.1f GB are free at %s; free some, make "
            "data/ a link to a larger disk, or lower generation.count",
            needed / 1e9, free / 1e9, folder.absolute(),
        )  # fmt: skip


def check_band(model: ModelParams, evaluation: EvaluationParams) -> None:
    """Refuse a band of detail that no frame of the target size has.

    Raises:
        ValueError: Names the band and the size.
    """
    frame = np.random.default_rng(0).random((1, model.target.height, model.target.width, 3), dtype=np.float32)
    try:
        high_frequency_share(frame, *evaluation.fine_band)
    except ValueError as error:
        raise ValueError(f"evaluation.fine_band {list(evaluation.fine_band)} at model.target: {error}") from error


def check_scoring(generation: GenerationParams, evaluation: EvaluationParams) -> None:
    """Refuse VBench dimensions that are defined on no clip; warn of those on too few prompts to tell arms apart.

    Raises:
        ValueError: Names the dimensions, and what would define them; or the prompts cannot be read.
    """
    prompts = load_prompts(generation.model_copy(update={"shard": None})).drop_duplicates("prompt_index")
    counts = clips_per_dimension(prompts, evaluation.vbench_dimensions)
    if none := [name for name, count in counts.items() if not count]:
        raise ValueError(
            f"evaluation.vbench_dimensions: {', '.join(none)} is defined on none of the {len(prompts)} prompts of "
            f"generation.prompts {generation.prompts}; take it out, or use vbench_custom (every dimension that "
            "needs no labels, on every clip) or vbench_subset with generation.prompt_dimensions"
        )
    fewest = Bootstrap(confidence=evaluation.confidence).fewest_pairs
    if few := [f"{name} on {count}" for name, count in counts.items() if count < fewest]:
        log.warning("fewer than %d prompts cannot tell two arms apart: %s", fewest, ", ".join(few))


def check_report(report: ReportParams, evaluation: EvaluationParams) -> None:
    """Refuse claims and published figures that the report could not read, after everything was made and scored.

    Raises:
        ValueError: Names the file and the place.
        FileNotFoundError: There is no such file.
    """
    from vibe_pipeline.reporting.claims import load_claims
    from vibe_pipeline.reporting.page import load_published  # not at the top: it draws, and takes a second to import

    for name, path, read in (("claims", report.claims, load_claims), ("published", report.published, load_published)):
        if not path.is_file():
            raise FileNotFoundError(f"report.{name}: {path} is not a file")
        read(path)
    asked = {dimension_of(name).name for name in evaluation.vbench_dimensions}
    wanted = {metric for claim in load_claims(report.claims) for metric in claim.metrics} & set(DIMENSIONS)
    if unasked := sorted(wanted - asked):
        log.warning(
            "%s has claims on %s, which evaluation.vbench_dimensions does not ask for: they will not be measured",
            report.claims, ", ".join(unasked),
        )  # fmt: skip


def check_parameters(params: Mapping[str, Any], tables: Tables, tags: set[str]) -> None:
    """Check what the nodes of a run will need, by their tags."""
    if tags & {"data_processing", "relay_stage2"}:
        check_training(DataParams(**params["data"]), tables)
    if {"generation", "vbench_eval"} <= tags:
        making, evaluation = GenerationParams(**params["generation"]), EvaluationParams(**params["evaluation"])
        check_scoring(making, evaluation)
        check_band(ModelParams(**params["model"]), evaluation)
    if "ablation_report" in tags:
        check_report(ReportParams(**params.get("report", {})), EvaluationParams(**params["evaluation"]))
    if "generation" in tags:
        model, making = ModelParams(**params["model"]), GenerationParams(**params["generation"])
        check_generation(model, making, tables)
        arms = 0 if tables.stop_after_preview else len(tables.arms)
        check_space(model, len(load_prompts(making)), arms, Path.cwd())
    elif tags & {"data_processing", "relay_stage1", "relay_stage2"}:
        find_model(params["model"]["path"])
