"""Nodes of vbench_eval: VBench over all arms, and the measures that see resolution, per arm."""

from pathlib import Path
from typing import Any

import pandas as pd

from vibe_pipeline.config import EvaluationParams, GenerationParams, ModelParams
from vibe_pipeline.diffusion.models import limit_threads
from vibe_pipeline.evaluation.dimensions import readiness
from vibe_pipeline.evaluation.memory import MEASURES_VERSION, remembered
from vibe_pipeline.evaluation.vbench import score_vbench, vbench_manifest
from vibe_pipeline.identity import content_key
from vibe_pipeline.miniature.scores import measure_arm

WORK = Path("data/07_model_output/vbench")
MEMORY = Path("data/07_model_output/measured")


def run_vbench(
    evaluation: EvaluationParams, model: ModelParams, *arms: pd.DataFrame
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """VBench's own scores of every clip; a dimension that cannot run is a row with its reason."""
    limit_threads(model.threads)
    clips = pd.concat(arms, ignore_index=True)
    manifest = vbench_manifest(clips, evaluation.vbench_dimensions)
    ready = [str(readiness(name, evaluation.vbench_cache)) for name in evaluation.vbench_dimensions]
    key = content_key("vbench", MEASURES_VERSION, list(clips["arm"] + clips["key"]), manifest, ready)

    def compute() -> dict[str, pd.DataFrame]:
        device = "cpu" if model.device == "cpu" else "cuda"
        return {"scores": score_vbench(clips, evaluation.vbench_dimensions, evaluation.vbench_cache, WORK, device)}

    return remembered(MEMORY, key, compute)["scores"], manifest


def measure(
    name: str,
    clips: pd.DataFrame,
    native_clips: pd.DataFrame,
    evaluation: EvaluationParams,
    generation: GenerationParams,
    model: ModelParams,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Resolution-aware measures of one arm, and against the known truth on the miniature."""
    limit_threads(model.threads)
    settings = [generation.prompts, generation.native_source, evaluation.fine_band]
    key = content_key("measures", MEASURES_VERSION, name, list(clips["key"]), list(native_clips["key"]), settings)

    def compute() -> dict[str, pd.DataFrame]:
        scores, spectrum = measure_arm(name, clips, native_clips, evaluation, generation)
        return {"scores": scores, "spectrum": spectrum}

    tables = remembered(MEMORY, key, compute)
    return tables["scores"], tables["spectrum"]


def collect_scores(vbench_scores: pd.DataFrame, *arms: pd.DataFrame) -> pd.DataFrame:
    """All scores in one long table: one row per arm, clip and metric."""
    return pd.concat([vbench_scores, *arms], ignore_index=True)
