"""What is checked before the first node runs: models and files are there and whole, and sizes fit one another.

One list of checks serves the run, which stops at the first that fails, and `kedro vibe doctor`, which shows them all.
Files are judged by their headers, keys and shapes: nothing is loaded.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import pandas as pd

from vibe_pipeline.diffusion.checkpoint import find_model, tile_stride
from vibe_pipeline.diffusion.quantisation import require_package
from vibe_pipeline.evaluation.bootstrap import Bootstrap
from vibe_pipeline.evaluation.metrics.asked import asked_for
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.claims import Claims
from vibe_pipeline.experiment.data import DataParams
from vibe_pipeline.experiment.evaluation import EvaluationParams
from vibe_pipeline.experiment.folders import Folders
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.experiment.tables import Experiment
from vibe_pipeline.generation.attention_sizes import require_fitting_sizes
from vibe_pipeline.generation.clip_cache import Scale
from vibe_pipeline.generation.first_frames import require_first_frames
from vibe_pipeline.generation.methods.external import measured_clips
from vibe_pipeline.generation.prompts import load_prompts
from vibe_pipeline.images.find import find_images
from vibe_pipeline.io.errors import one_line
from vibe_pipeline.io.files import free_bytes
from vibe_pipeline.io.named import require_folder, require_no_file
from vibe_pipeline.planning.arm_checks import check_arms
from vibe_pipeline.planning.checks import Check
from vibe_pipeline.planning.claims import check_claims, check_published
from vibe_pipeline.planning.looks import check_look
from vibe_pipeline.planning.stills_filter import check_filter
from vibe_pipeline.planning.training_checks import check_levels, check_single_size, check_training
from vibe_pipeline.planning.training_images import judge_images
from vibe_pipeline.planning.weight_files import expert_checks, weight_checks, weights_check
from vibe_pipeline.vbench.prompts import INSTALL, clips_per_dimension

log = logging.getLogger(__name__)

TRAINING = {"data_processing", "relay_stage1", "relay_stage2"}


def generation_checks(
    model: ModelParams, generation: GenerationParams, arms: Mapping[str, ArmParams]
) -> Iterator[Check]:
    """The prompts, what only a base of two experts has, and every file that these arms name."""
    prompts = cache(lambda: load_prompts(generation))
    yield from expert_checks(model, generation, arms)
    ours = "mend what the line above names, or set generation.prompts to vbench_subset or another file of prompts"
    yield Check("prompts", lambda: _prompts(prompts(), model), INSTALL if _needs_vbench(generation) else ours)
    yield from weight_checks(model, arms)
    for name, arm in arms.items():
        if arm.path is not None:
            fix = "put the other system's clips there, one for each prompt and seed"
            yield Check(f"arms.{name}.path", partial(_external, name, arm, prompts, model), fix)


def scoring_checks(evaluation: EvaluationParams, folders: Folders) -> Iterator[Check]:
    """Folders and names that are only looked at once everything was generated."""

    def folder(field: str, path: Path) -> str:
        require_no_file(path, field)
        return f"{path}{'' if path.is_dir() else ', not made yet'}"

    for field in ("vbench_weights", "vbench_env", "measure_weights"):
        name, path = f"folders.{field}", getattr(folders, field)
        yield Check(name, partial(folder, name, path), "set it to a folder, in globals.yml")
    if evaluation.extra_measures:
        yield Check("evaluation.extra_measures", lambda: _extra_measures(evaluation), "take the wrong one out")


def _extra_measures(evaluation: EvaluationParams) -> str:
    return ", ".join(entry.name for entry in asked_for(evaluation.extra_measures))


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
        ModuleNotFoundError: The package of a quantisation is not installed.
        ValueError: Names the nearest tiles that fit.
    """
    require_package(model.quantisation)
    checkpoint = find_model(model.path)
    if model.tile is not None:
        tile_stride(checkpoint.config_of("vae"), model.tile)


def check_images(model: ModelParams, data: DataParams) -> None:
    """Refuse a folder of images that is not one, whose metadata cannot be read, or of whose images too few are usable.

    Raises:
        ValueError, FileNotFoundError: Names the folder, or the file and the line.
    """
    if data.source == "folder":
        found = find_images(require_folder(data.path, "data.path", "put captioned images there"))
        judge_images(found, model, data).require()


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
    from vibe_pipeline.evaluation.metrics.pixels import Grid  # only where it is asked

    try:
        Grid(model.target.height, model.target.width).band(*evaluation.fine_band)
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


def settings_checks(params: Mapping[str, Any], tables: Experiment) -> Iterator[Check]:
    """What a whole run refuses for its settings alone, beside the model's configuration; each raises a ValueError."""
    model, data = ModelParams(**params["model"]), DataParams(**params["data"])
    yield from (
        _setting("model.tile", partial(check_model, model)),
        _setting("sizes", lambda: require_fitting_sizes(find_model(model.path), model, tables.arms)),
        _setting("data", partial(check_training, data, tables)),
        _setting("data.high", partial(check_single_size, model, data, tables)),
        _setting("noise levels", partial(check_levels, model, tables)),
        _setting("arms", partial(check_arms, model, tables.arms)),
        _setting("linear filter", partial(check_filter, model, data, tables)),
        _setting("evaluation.fine_band", partial(check_band, model, EvaluationParams(**params["evaluation"]))),
    )


def _setting(item: str, check: Callable[[], None]) -> Check:
    def found() -> str:
        """Nothing, where the check does not raise."""
        check()
        return ""

    return Check(item, found, "change the field that the line above names")


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
    if tags & {"generation", "ablation_report"}:
        check_look(params)
    if {"generation", "vbench_eval"} <= tags:
        evaluation = EvaluationParams(**params["evaluation"])
        check_scoring(GenerationParams(**params["generation"]), evaluation)
        check_band(ModelParams(**params["model"]), evaluation)
    if "generation" in tags:
        model, making = ModelParams(**params["model"]), GenerationParams(**params["generation"])
        check_arms(model, tables.arms)
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
        check_images(ModelParams(**params["model"]), DataParams(**params["data"]))
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


def _prompts(prompts: pd.DataFrame, model: ModelParams) -> str:
    # Every word is a token at least, so these are too long by any tokenizer, which need not be loaded to say so.
    words = prompts["prompt"].str.split().str.len()
    if (words > model.text_length).any():
        longest = words.idxmax()
        raise ValueError(
            f"prompt {prompts['prompt_index'][longest]} has {words[longest]} words, model.text_length takes "
            f"{model.text_length} tokens: {one_line(prompts['prompt'][longest], 60)!r}; shorten it, nothing is cut"
        )
    if "first_frame" in prompts:
        checkpoint = find_model(model.path)
        require_first_frames(prompts, model.native, checkpoint.name, checkpoint.expand_timesteps)
    return f"{len(prompts)} (prompt, seed) pairs"


def _needs_vbench(generation: GenerationParams) -> bool:
    return isinstance(generation.prompts, str) and generation.prompts.startswith("vbench_")


def _external(name: str, arm: ArmParams, prompts: Callable[[], pd.DataFrame], model: ModelParams) -> str:
    path = require_folder(arm.path or Path(), f"arms.{name}.path", "put the other system's clips there")
    clips = measured_clips(name, arm, prompts(), Scale.of(model.target))
    differing = sorted({row["differs"] for row, _ in clips} - {""})
    return f"{len(clips)} clips in {path}" + (f"; {'; '.join(differing)}" if differing else "")
