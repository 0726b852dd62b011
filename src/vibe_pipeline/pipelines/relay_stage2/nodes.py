"""Nodes of relay_stage2: one per row of `adapters`."""

from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd

from vibe_pipeline.experiment.adapters import AdapterParams
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.folders import Folders
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.generation.validation_clips import ValidationClips
from vibe_pipeline.images.degradation import check_of
from vibe_pipeline.io.manifests import AdapterManifest
from vibe_pipeline.tracking import images_input, log_artifact, tracked_adapter
from vibe_pipeline.training.stages import alone, stage2_job, train


def train_resolution(
    name: str,
    latent_cache: dict[str, Any],
    degradation_checks: pd.DataFrame,
    model: ModelParams,
    folders: Folders,
    row: AdapterParams,
    stage1: AdapterManifest | None = None,
    generation: GenerationParams | None = None,
    arm: ArmParams | None = None,
) -> AdapterManifest:
    """Train D2 on high-resolution images; with `stage1` fused and frozen, or on the original base.

    With `generation` and `arm`, a few clips are made as that arm makes them, every `validate_every` steps.
    """
    job = stage2_job(name, latent_cache, stage1, model, row, folders.adapters)
    check = check_of(degradation_checks, row)
    with alone(job), tracked_adapter(name, "stage2", row, check, job.folder) as run:
        run.reads(images_input(latent_cache))
        if generation is not None and arm is not None:
            clips = ValidationClips(
                adapter=name,
                arm=arm,
                model=model,
                generation=generation,
                count=row.validation_clips,
                root=folders.clips,
                publish=partial(log_artifact, run.run_id),
            )
            job = replace(job, on_validate=clips)
        return run.finish(train(job, run.log))
