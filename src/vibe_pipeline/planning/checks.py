"""What a run needs of files and names, one `Check` each, with the way out.

One list serves the run, which stops at the first that fails, and `kedro vibe doctor`, which shows them all. Files are
judged by their headers, keys and shapes: nothing is loaded.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import pandas as pd

from vibe_pipeline.diffusion.checkpoint import find_model, require_whole
from vibe_pipeline.diffusion.foreign import HUB_ID
from vibe_pipeline.diffusion.weights import Once, made
from vibe_pipeline.evaluation.metrics.asked import asked_for
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.evaluation import EvaluationParams
from vibe_pipeline.experiment.folders import Folders
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.generation.clip_cache import Scale
from vibe_pipeline.generation.first_frames import require_first_frames
from vibe_pipeline.generation.methods.external import measured_clips
from vibe_pipeline.generation.peer_weights import how_to_get
from vibe_pipeline.generation.prompts import load_prompts
from vibe_pipeline.io.named import require_folder, require_no_file
from vibe_pipeline.planning.architecture import load_architecture
from vibe_pipeline.planning.weight_files import extra_adapter, network, own_transformer
from vibe_pipeline.vbench.prompts import INSTALL


@dataclass(frozen=True)
class Check:
    """One thing that a run needs.

    Attributes:
        item: What: the field that names it.
        look: Says what is there; a ValueError, OSError or ImportError says in one line what is wrong.
        fix: The command or the setting that mends it.
    """

    item: str
    look: Callable[[], str]
    fix: str


def weights_check(path_or_id: str, once: Once = made) -> Check:
    """The base: a model that can be run, whole; `once` keeps the shapes that its configurations ask for."""

    def look() -> str:
        checkpoint = find_model(path_or_id)
        require_whole(checkpoint, once)
        return str(checkpoint.path)

    is_id = HUB_ID.fullmatch(path_or_id) and not Path(path_or_id).exists()
    fix = f"hf download {path_or_id}" if is_id else "set model.path to a whole model, as the line above says"
    return Check("weights", look, fix)


def generation_checks(
    model: ModelParams, generation: GenerationParams, arms: Mapping[str, ArmParams]
) -> Iterator[Check]:
    """The prompts, what only a base of two experts has, and every file that these arms name."""
    prompts = cache(lambda: load_prompts(generation))
    yield from expert_checks(model, generation, arms)
    ours = "set generation.prompts to vbench_subset or a file of prompts"
    yield Check("prompts", lambda: _prompts(prompts(), model), INSTALL if _needs_vbench(generation) else ours)
    yield from weight_checks(model, arms)
    for name, arm in arms.items():
        if arm.path is not None:
            fix = "put the other system's clips there, one for each prompt and seed"
            yield Check(f"arms.{name}.path", partial(_external, name, arm, prompts, model), fix)


def expert_checks(model: ModelParams, generation: GenerationParams, arms: Mapping[str, ArmParams]) -> Iterator[Check]:
    """Fields that speak of the second of two experts, where any are set."""
    fields = {"generation.native_guidance_scale_2": generation.native_guidance_scale_2 is not None}
    for name, arm in arms.items():
        fields[f"arms.{name}.guidance_scale_2"] = arm.guidance_scale_2 is not None
        for i, extra in enumerate(arm.extra_adapters):
            fields[f"arms.{name}.extra_adapters.{i}.expert"] = extra.expert == "high"
    for field in (field for field, given in fields.items() if given):
        yield Check(field, partial(_two_experts, model, field), f"leave {field} out")


def _two_experts(model: ModelParams, field: str) -> str:
    architecture = load_architecture(model.path)
    if architecture.boundary is None:
        raise ValueError(f"{field} speaks of a base of two experts, and {architecture.name} has one: leave it out")
    return f"{architecture.name} has two experts, which change at sigma {architecture.boundary:g}"


def weight_checks(model: ModelParams, arms: Mapping[str, ArmParams]) -> Iterator[Check]:
    """Every file of weights that these arms name."""
    transformer = cache(lambda: load_architecture(model.path).build_transformer())
    for name, arm in arms.items():
        if arm.transformer is not None:
            field, path = f"arms.{name}.transformer", arm.transformer.path
            fix = "fetch it as docs/baselines.md says, or give another whole transformer of the base's architecture"
            fix = how_to_get(path) or fix
            yield Check(field, partial(own_transformer, path, field, model), fix)
        for extra in arm.extra_adapters:
            field = f"arms.{name}.extra_adapters"
            fix = f"kedro vibe import-adapter FILE --output DIR --base {model.path}, or mend the path"
            fix = how_to_get(extra.path) or fix
            yield Check(field, partial(extra_adapter, extra, field, transformer), fix)
        if arm.sr is not None:
            fix = how_to_get(arm.sr.weights) or "name a .pth or .safetensors file of a network that spandrel knows"
            yield Check(f"arms.{name}.sr.weights", partial(network, name, arm.sr, model), fix)


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


def _prompts(prompts: pd.DataFrame, model: ModelParams) -> str:
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
