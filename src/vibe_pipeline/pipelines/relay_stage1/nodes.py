"""Node of relay_stage1: one per row of `stage1`."""

from typing import Any

from vibe_pipeline.experiment.folders import Folders
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.experiment.training import Stage1Params
from vibe_pipeline.io.manifests import AdapterManifest
from vibe_pipeline.tracking import images_input, tracked_adapter
from vibe_pipeline.training.stages import alone, stage1_job, train


def train_modality(
    name: str, latent_cache: dict[str, Any], model: ModelParams, folders: Folders, row: Stage1Params
) -> AdapterManifest:
    """Train D1: the image modality, on low-resolution images."""
    job = stage1_job(name, latent_cache, model, row, folders.adapters)
    with alone(job), tracked_adapter(name, "stage1", row, folder=job.folder) as run:
        run.reads(images_input(latent_cache))
        return run.finish(train(job, run.log))
