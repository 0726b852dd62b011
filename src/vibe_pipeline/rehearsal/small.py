"""A run's parameters, catalog and images made small: as large in pixels, tokens and batches, but few of everything."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from vibe_pipeline.diffusion.flow import Levels, is_high_noise, noise_levels
from vibe_pipeline.diffusion.models import find_model
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.data import DataParams
from vibe_pipeline.experiment.folders import inside
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.experiment.tables import Experiment
from vibe_pipeline.experiment.training import TrainParams
from vibe_pipeline.generation.methods import method_of
from vibe_pipeline.images.cache import is_current
from vibe_pipeline.io.files import read_json
from vibe_pipeline.io.keys import file_sha256

STEPS = 2
CAPTION = "a photograph of a street at noon"


def judged_alone(tables: Experiment) -> Experiment:
    """One arm that differences may be taken to, and what it needs."""
    for name, arm in tables.arms.items():
        alone = tables.model_copy(update={"arms": {name: arm}})
        if tables.reference_arm in alone.references:
            return alone.model_copy(update={"adapters": {n: r for n, r in tables.adapters.items() if n == arm.adapter}})
    raise ValueError(f"evaluation.reference_arm: {tables.reference_arm!r} is not a row of arms")


def shortened(tables: Experiment, model: ModelParams) -> Experiment:
    """The tables with rows that take few steps; sizes, batches, attention and objectives stay."""
    boundary = find_model(model.path).boundary
    return tables.model_copy(
        update={
            "stage1": {name: _short_training(row) for name, row in tables.stage1.items()},
            "adapters": {name: _short_training(row) for name, row in tables.adapters.items()},
            "arms": {name: _short_arm(arm, model.flow_shift, boundary) for name, arm in tables.arms.items()},
        }
    )


def few_native_steps(generation: GenerationParams, model: ModelParams) -> GenerationParams:
    """One step of the native pass, or the solver's first two; of two experts, until the second is at work."""
    boundary = find_model(model.path).boundary
    least = 2 if generation.native_scheduler == "unipc" else 1
    steps = _steps_to_low_noise(least, lambda steps: noise_levels(steps, model.flow_shift), boundary)
    return generation.model_copy(update={"native_steps": steps, "shard": None})


def _short_training(row: TrainParams) -> TrainParams:
    changes: dict[str, Any] = {"steps": STEPS, "checkpoint_every": 1, "log_every": 1}
    if row.validate_every is not None:
        changes["validate_every"] = STEPS
    if getattr(row, "validation_clips", 0):
        changes["validation_clips"] = 1
    return row.model_copy(update=changes)


def _short_arm(arm: ArmParams, shift: float, boundary: float | None) -> ArmParams:
    """One step from the arm's own start, two where the second differs; of two experts, until the second is at work."""
    few = {"steps": 2 if arm.scheduler == "unipc" or (arm.refresh_every or 1) > 1 else 1, "strength_mode": "all_steps"}
    stages = arm.stages and tuple(stage.model_copy(update=few) for stage in arm.stages)
    short = arm.model_copy(update=few | {"stages": stages})

    def levels(steps: int) -> Levels:
        return method_of(arm).levels(short.model_copy(update={"steps": steps}), shift)

    return short.model_copy(update={"steps": _steps_to_low_noise(short.steps, levels, boundary)})


def _steps_to_low_noise(least: int, levels: Callable[[int], Levels], boundary: float | None) -> int:
    """The fewest steps, `least` or more, of which one is the low-noise expert's: what was trained is in it alone."""
    steps = least
    while boundary is not None and is_high_noise(levels(steps)[-1], boundary):
        steps += 1
    return steps


# What an entry of the catalog says of the place it was written for: the new one is this machine's own.
OF_ITS_PLACE = ("filepath", "metadata", "versioned", "credentials", "fs_args")


def moved(catalog: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The catalog's configuration with every file below `folder`; what has no file is kept in memory."""
    moved = {}
    for name, entry in catalog.items():
        if "filepath" in entry:
            elsewhere = {"filepath": str(inside(folder, entry["filepath"]))}
            moved[name] = {k: v for k, v in entry.items() if k not in OF_ITS_PLACE} | elsewhere
        else:
            moved[name] = {"type": "MemoryDataset"}
    return moved


def current_latents(model: ModelParams, data: DataParams, catalog: Mapping[str, Any]) -> dict[str, Any] | None:
    """The project's latent cache, if it is there and of these parameters."""
    path = Path(catalog.get("latent_cache", {}).get("filepath", ""))
    if not path.is_file():
        return None
    manifest = read_json(path)
    return manifest if is_current(manifest, find_model(model.path), model, data) else None


def noise_images(data: DataParams, batch: int, folder: Path) -> DataParams:
    """Random images of stage 2's size in place of the real ones: a batch, and one that is held out."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(batch + 1):
        noise = rng.integers(0, 256, (data.high.height, data.high.width, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{i}.png", compress_level=0)
        (folder / f"{i}.txt").write_text(CAPTION)
    changes = {"source": "folder", "path": folder, "count": None, "held_out": 1, "min_usable_share": 1.0}
    return data.model_copy(update=changes)


def usable_of(data: DataParams) -> pd.DataFrame:
    """The random images as the check lists usable ones, for what reads pixels where latents are there already."""
    rows = [{"path": str(path), "caption": CAPTION, "sha256": file_sha256(path)} for path in data.path.glob("*.png")]
    return pd.DataFrame(rows).assign(height=data.high.height, width=data.high.width)
