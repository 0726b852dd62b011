"""Node of relay_stage1: one per row of `stage1`."""

from typing import Any

from vibe_pipeline.experiment.folders import Folders
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.experiment.training import Stage1Params
from vibe_pipeline.tracking import tracked_adapter
from vibe_pipeline.training.stages import alone, stage1_folder, train_stage1


def train_modality(
    name: str, latent_cache: dict[str, Any], model: ModelParams, folders: Folders, row: Stage1Params
) -> dict[str, Any]:
    """Train D1: the image modality, on low-resolution images."""
    folder = stage1_folder(latent_cache, model, row, folders.adapters)
    with alone(name, folder), tracked_adapter(name, "stage1", row, folder=folder) as run:
        return run.finish(
            train_stage1(name=name, cache=latent_cache, model=model, row=row, root=folders.adapters, on_log=run.log)
        )
