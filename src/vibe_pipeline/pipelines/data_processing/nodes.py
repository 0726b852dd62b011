"""Nodes of data_processing: thin calls into the images room."""

import logging
import os
from pathlib import Path
from typing import Any

import pandas as pd

from vibe_pipeline.diffusion.models import find_model, settle_torch
from vibe_pipeline.experiment.adapters import AdapterParams
from vibe_pipeline.experiment.data import DataParams
from vibe_pipeline.experiment.folders import Folders
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.images import check_images, find_images, require_usable
from vibe_pipeline.images.account import take
from vibe_pipeline.images.buckets import make_buckets
from vibe_pipeline.images.cache import build_cache
from vibe_pipeline.images.captions import check_captions
from vibe_pipeline.images.degradation import degradation_check
from vibe_pipeline.images.huggingface import export_dataset
from vibe_pipeline.io.errors import one_line
from vibe_pipeline.io.files import is_folder
from vibe_pipeline.miniature.images import render_images


def find_training_images(data: DataParams, folders: Folders) -> dict[str, Any]:
    """Point at the training images; the miniature renders its own first, a dataset is written out as a folder.

    Raises:
        FileNotFoundError: The folder of images, or the dataset, is not there.
    """
    if data.source == "huggingface":
        folder = export_dataset(data, folders.datasets)
    else:
        folder = render_images(data) if data.source == "miniature" else data.path
    if not is_folder(folder):
        raise FileNotFoundError(
            f"data.path {one_line(folder)} is not a folder; put captioned images there or set data.path"
        )
    return {"path": str(folder), "source": data.source}


def check_training_images(
    training_images: dict[str, Any], data: DataParams, model: ModelParams
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Sort the images into usable ones and a quarantine list with reasons."""
    found = find_images(Path(training_images["path"]), logging.INFO)
    wan = find_model(model.path)
    sizes = [bucket.high for bucket in make_buckets(wan, model.native, data)]
    workers = data.check_workers or model.threads or os.cpu_count() or 1
    usable, quarantine = check_images(found, sizes, data.max_caption_words, workers)
    usable, quarantine = check_captions(usable, quarantine, wan, model.text_length)
    require_usable(usable, quarantine, data.min_usable_share)
    return take(usable, quarantine, data), quarantine


def cache_latents(
    usable_images: pd.DataFrame, model: ModelParams, data: DataParams, folders: Folders
) -> dict[str, Any]:
    """Encode images and captions once."""
    settle_torch(model.threads, model.deterministic)
    return build_cache(usable_images, find_model(model.path), model, data, folders.latents)


def check_degradations(latent_cache: dict[str, Any], adapters: dict[str, Any]) -> pd.DataFrame:
    """How far each degradation that is trained on is from the truth and from what inference feeds the model."""
    return degradation_check(latent_cache, map(AdapterParams.model_validate, adapters.values()))
