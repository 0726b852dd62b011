"""What runs are made from, as MLflow's data sets: the training images of an adapter, the prompts of an arm."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.entities import Dataset, DatasetInput, InputTag

from vibe_pipeline.io.keys import content_key


def images_input(cache: Mapping[str, Any]) -> DatasetInput:
    """The images that an adapter learns from.

    Args:
        cache: The latent cache's manifest: key, and images with sha256, caption, shard, held_out.
    """
    images = cache["images"]
    profile = {"num_rows": len(images), "held_out": sum(image["held_out"] for image in images)}
    place = Path(images[0]["shard"]).parent if images else Path()
    return _input("images", cache["key"], "training", {"caption": "string", "sha256": "string"}, profile, str(place))


def prompts_input(clips: pd.DataFrame, place: str) -> DatasetInput:
    """The prompts and seeds that an arm answers.

    Args:
        clips: One row a clip: prompt_index, prompt, seed.
        place: What `generation.prompts` says: a built-in set, or a file.
    """
    asked = clips[["prompt_index", "prompt", "seed"]].drop_duplicates()
    digest = content_key(asked["prompt"].tolist(), [int(seed) for seed in asked["seed"]])
    profile = {"num_rows": len(asked)}
    return _input("prompts", digest, "evaluation", {"prompt": "string", "seed": "long"}, profile, place)


def _input(
    name: str, digest: str, context: str, columns: Mapping[str, str], profile: Mapping[str, int], place: str
) -> DatasetInput:
    schema = [{"name": column, "type": kind, "required": True} for column, kind in columns.items()]
    data = Dataset(
        name=name,
        digest=digest,
        source_type="local",
        source=json.dumps({"uri": place}),
        schema=json.dumps({"mlflow_colspec": schema}),
        profile=json.dumps(profile),
    )
    return DatasetInput(data, [InputTag("mlflow.data.context", context)])
