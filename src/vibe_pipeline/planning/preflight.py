"""What is checked before the first node runs: models and files are there and whole, and sizes fit one another."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vibe_pipeline.diffusion.checkpoint import find_model, tile_stride
from vibe_pipeline.diffusion.quantisation import require_torchao
from vibe_pipeline.evaluation.bootstrap import Bootstrap
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.claims import Claims
from vibe_pipeline.experiment.data import DataParams
from vibe_pipeline.experiment.evaluation import EvaluationParams
from vibe_pipeline.experiment.folders import Folders
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.experiment.tables import Experiment
from vibe_pipeline.generation.attention_sizes import require_fitting_sizes
from vibe_pipeline.generation.prompts import load_prompts
from vibe_pipeline.images.find import find_images
from vibe_pipeline.io.files import free_bytes
from vibe_pipeline.io.named import require_folder
from vibe_pipeline.planning.checks import generation_checks, scoring_checks, weights_check
from vibe_pipeline.planning.claims import check_claims, check_published
from vibe_pipeline.planning.stills_filter import check_filter
from vibe_pipeline.planning.training_checks import check_levels, check_single_size, check_training
from vibe_pipeline.vbench.prompts import clips_per_dimension

log = logging.getLogger(__name__)

TRAINING = {"data_processing", "relay_stage1", "relay_stage2"}


def check_generation(model: ModelParams, generation: GenerationParams, tables: Experiment) -> None:
    """Refuse sizes, files and folders that would stop a run after hours.

    Raises:
        ValueError: A size that does not fit VAE, patches or an arm's attention, with the nearest that do; a model that
            cannot be run; a file that is damaged or of another kind.
        FileNotFoundError: The model, the prompts, an extra adapter or an external folder is not there.
    """
    weights_check(model.path).look()
    require_fitting_sizes(find_model(model.path), model, tables.arms)
    arms = {} if generation.stop_after_preview else tables.arms  # their clips may be made from the preview
    for check in generation_checks(model, generation, arms):
        check.look()


def check_model(model: ModelParams) -> None:
    """Refuse a model that is not there, a tile that its VAE cannot be cut into, and a quantisation without its package.

    Raises:
        FileNotFoundError: No such model.
        ModuleNotFoundError: torchao is not installed.
        ValueError: Names the nearest tiles that fit.
    """
    require_torchao(model.quantisation)
    checkpoint = find_model(model.path)
    if model.tile is not None:
        tile_stride(checkpoint.config_of("vae"), model.tile)


def check_quantised(model: ModelParams, arms: Mapping[str, ArmParams]) -> None:
    """Refuse files that change whole tensors of a base whose weights are quantised.

    Raises:
        ValueError: Names the row and the way out.
    """
    for name, arm in arms.items():
        if model.quantisation is not None and any(extra.differences for extra in arm.extra_adapters):
            raise ValueError(
                f"arms.{name}.extra_adapters change whole tensors of the base, which model.quantisation "
                f"{model.quantisation} cannot take up: set it to null, or take differences out"
            )


def check_images(data: DataParams) -> None:
    """Refuse a folder of images that is not one, or whose metadata cannot be read.

    Raises:
        ValueError, FileNotFoundError: Names the folder, or the file and the line.
    """
    if data.source == "folder":
        find_images(require_folder(data.path, "data.path", "put captioned images there"))


def check_space(model: ModelParams, clips: int, arms: int, folder: Path) -> None:
    """Warn if the clips of a run may not fit the disk: each arm refuses to begin without room for its raw frames."""
    native, target = (s.height * s.width * s.frames * 3 for s in (model.native, model.target))
    needed, free = clips * (native + arms * target), free_bytes(folder)
    if free < needed:
        log.warning(
            "the clips take up to %.1f GB (lossless files are smaller), and %.1f GB are free at %s; free some, set "
            "folders.clips in globals.yml to a larger disk, or lower generation.count",
            needed / 1e9, free / 1e9, folder.absolute(),
        )  # fmt: skip


def check_band(model: ModelParams, evaluation: EvaluationParams) -> None:
    """Refuse a band of detail that no frame of the target size has.

    Raises:
        ValueError: Names the band and the size.
    """
    from vibe_pipeline.evaluation.metrics.detail import high_frequency_share  # with torch, which doctor does without

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


def check_parameters(params: Mapping[str, Any], tables: Experiment, tags: set[str]) -> None:
    """Check what the nodes of a run will need, by their tags."""
    if tags & {"data_processing", "relay_stage2"}:
        check_training(DataParams(**params["data"]), tables)
    if tags & {"data_processing", "relay_stage1", "relay_stage2", "generation"}:
        check_model(ModelParams(**params["model"]))
    if tags & {"data_processing", "relay_stage2"}:
        check_single_size(ModelParams(**params["model"]), DataParams(**params["data"]), tables)
    if tags & {"relay_stage1", "relay_stage2"}:
        check_levels(ModelParams(**params["model"]), tables)
    if {"generation", "vbench_eval"} <= tags:
        evaluation = EvaluationParams(**params["evaluation"])
        check_scoring(GenerationParams(**params["generation"]), evaluation)
        check_band(ModelParams(**params["model"]), evaluation)
    if "generation" in tags:
        model, making = ModelParams(**params["model"]), GenerationParams(**params["generation"])
        check_quantised(model, tables.arms)
        check_generation(model, making, tables)
        if not tables.stop_after_preview:
            check_filter(model, DataParams(**params["data"]), tables)
        arms = 0 if tables.stop_after_preview else len(tables.arms)
        check_space(model, len(load_prompts(making)), arms, Folders(**params["folders"]).clips)
    elif tags & TRAINING:
        weights_check(params["model"]["path"]).look()
        if "relay_stage2" in tags and (watched := _validation_arms(tables)):
            generation = GenerationParams(**params["generation"])
            for check in generation_checks(ModelParams(**params["model"]), generation, watched):
                check.look()
    if "data_processing" in tags:
        check_images(DataParams(**params["data"]))
    if tags & {"vbench_eval", "ablation_report"}:
        evaluation = EvaluationParams(**params["evaluation"])
        for check in scoring_checks(evaluation, Folders(**params["folders"])):
            check.look()
        check_claims(Claims(params.get("claims", ())), evaluation)
        check_published(params.get("published", {}))


def _validation_arms(tables: Experiment) -> dict[str, ArmParams]:
    """Arms whose clips are rendered while an adapter is in training."""
    names = [tables.arm_of(name) for name, row in tables.adapters.items() if row.validation_clips]
    return {name: tables.arms[name] for name in names}
