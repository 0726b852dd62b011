"""Nodes of base_model."""

from pathlib import Path
from typing import Any

from vibe_pipeline.diffusion.models import limit_threads, pick_device
from vibe_pipeline.experiment.folders import Folders
from vibe_pipeline.experiment.miniature import MiniatureParams
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.io.keys import folder_fingerprint
from vibe_pipeline.training.base_model import train_base, train_restorer


def train_base_model(miniature: MiniatureParams, model: ModelParams, folders: Folders) -> dict[str, Any]:
    """Train the miniature's VAE, text encoder and transformer on `model.device`, into `model.path`."""
    folder = train_base(miniature, folders.base_training, Path(model.path), pick_device(model.device))
    return {
        "path": str(folder),
        "fingerprint": folder_fingerprint(folder),
        "parameters": miniature.model_dump(mode="json"),
    }


def train_pixel_network(miniature: MiniatureParams, model: ModelParams, folders: Folders) -> dict[str, Any]:
    """Train the miniature's single-image network for the enlargement of the run, into the folder of models."""
    limit_threads(1)
    factor = model.target.height // miniature.size
    output = folders.models / f"pixel_network_x{factor}.safetensors"
    return train_restorer(miniature, model.target.height, folders.base_training, output)
