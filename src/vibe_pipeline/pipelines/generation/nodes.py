"""Nodes of generation: prompts, native clips, true renders, and one per row of `arms`."""

from typing import Any

import pandas as pd

from vibe_pipeline.diffusion.models import find_model, settle_torch
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.data import DataParams
from vibe_pipeline.experiment.folders import Folders
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.experiment.run import TrackingParams
from vibe_pipeline.generation.prompts import load_prompts
from vibe_pipeline.generation.render import arm_clips, native_clips, reference_clips
from vibe_pipeline.images.buckets import make_buckets
from vibe_pipeline.images.stills_filter import filter_of_stills
from vibe_pipeline.io.manifests import AdapterManifest, FilterManifest
from vibe_pipeline.pipelines.rows import of_kind
from vibe_pipeline.reporting.preview import write_preview
from vibe_pipeline.tracking import parent_run


def list_prompts(generation: GenerationParams) -> pd.DataFrame:
    """Every (prompt, seed) of the run."""
    return load_prompts(generation)


def render_native(
    prompts: pd.DataFrame, model: ModelParams, generation: GenerationParams, folders: Folders
) -> pd.DataFrame:
    """The clips that every arm starts from, made once."""
    return native_clips(prompts, model, generation, folders.clips)


def show_preview(native_clips: pd.DataFrame, tracking: TrackingParams, folders: Folders) -> dict[str, Any]:
    """Contact sheets and copies of the native clips, in the report's folder and in MLflow, before any second pass."""
    folder = folders.report / "preview"
    sheets = write_preview(native_clips, folder)
    run = parent_run()
    for path in [*sheets, *sorted((folder / "clips").iterdir())[: tracking.clips_per_arm]]:
        run.artifact(path, "preview")
    return {"folder": str(folder), "sheets": [str(s) for s in sheets], "clips": len(native_clips)}


def render_references(
    prompts: pd.DataFrame, model: ModelParams, generation: GenerationParams, folders: Folders
) -> pd.DataFrame:
    """True renders of the prompts at target size; none for prompts whose truth is not known."""
    return reference_clips(prompts, model, generation, folders.clips)


def fit_linear_filter(
    usable_images: pd.DataFrame, model: ModelParams, data: DataParams, folders: Folders
) -> dict[str, Any]:
    """The best linear filter from native to target that stage 2's stills give, once for a data set."""
    settle_torch(model.threads, model.deterministic)
    buckets = make_buckets(find_model(model.path), model.native, data)
    sizes = (model.native.height, model.native.width), (model.target.height, model.target.width)
    fitted = filter_of_stills(usable_images, buckets, sizes, data, folders.models / "linear_filters")
    return fitted.model_dump(mode="json")


def render_arm(
    name: str,
    native: pd.DataFrame,
    preview: dict[str, Any],
    references: pd.DataFrame,
    model: ModelParams,
    generation: GenerationParams,
    folders: Folders,
    arm: ArmParams,
    adapter: AdapterManifest | None = None,
    stage1: AdapterManifest | None = None,
    linear_filter: FilterManifest | None = None,
) -> pd.DataFrame:
    """Every clip of one arm, with the true render beside it where there is one.

    `preview` is not read: it orders the second passes after the native clips can be looked at.
    """
    made = arm_clips(
        name=name,
        arm=arm,
        native=native,
        adapter=adapter,
        stage1=stage1,
        model=model,
        params=generation,
        root=folders.clips,
        linear_filter=linear_filter,
    )
    truth = references.set_index(["prompt_index", "seed"])["path"]
    keys = zip(made["prompt_index"], made["seed"], strict=True)
    return made.assign(reference_path=[truth.get(key, "") for key in keys])


def render_filtered_arm(
    name: str,
    native: pd.DataFrame,
    preview: dict[str, Any],
    references: pd.DataFrame,
    model: ModelParams,
    generation: GenerationParams,
    folders: Folders,
    arm: ArmParams,
    linear_filter: dict[str, Any],
) -> pd.DataFrame:
    """:func:`render_arm` for a method that is made with the filter of stage 2's stills."""
    return render_arm(
        name=name,
        native=native,
        preview=preview,
        references=references,
        model=model,
        generation=generation,
        folders=folders,
        arm=arm,
        linear_filter=FilterManifest.model_validate(linear_filter),
    )


def gather_clips(**by_row: pd.DataFrame) -> pd.DataFrame:
    """The clips of every arm ("clips-<arm>") as one table, in the arms' order."""
    return pd.concat(of_kind("clips", by_row).values(), ignore_index=True)
