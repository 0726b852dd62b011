"""Nodes of vbench_eval: VBench over all arms, and the measures that see resolution, per arm."""

import time
from typing import Any

import pandas as pd
import torch

from vibe_pipeline.diffusion.models import settle_torch
from vibe_pipeline.evaluation.composites import composite_scores
from vibe_pipeline.evaluation.measure import measure_arm
from vibe_pipeline.evaluation.networks import Networks
from vibe_pipeline.experiment.evaluation import EvaluationParams
from vibe_pipeline.experiment.folders import Folders
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.generation.prompts import FOUR_K, VBENCH_PROTOCOLS
from vibe_pipeline.io.keys import set_key
from vibe_pipeline.pipelines.rows import of_kind
from vibe_pipeline.vbench.manifest import vbench_manifest
from vibe_pipeline.vbench.run import Scoring
from vibe_pipeline.vbench.score import score_vbench


def run_vbench(
    evaluation: EvaluationParams,
    generation: GenerationParams,
    model: ModelParams,
    folders: Folders,
    clips: pd.DataFrame,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """VBench's own scores of every clip of all arms; a dimension that cannot run is a row with its reason.

    The manifest says when and of which clips, as the page tells how old scores are.
    """
    settle_torch(model.threads, model.deterministic)
    protocol = generation.prompts if generation.prompts in (*VBENCH_PROTOCOLS, FOUR_K) else "custom"
    manifest = vbench_manifest(
        clips, evaluation.vbench_dimensions, protocol, evaluation.prompt_rewriting, evaluation.flow_side
    )
    scoring = Scoring(
        cache_dir=folders.vbench_weights,
        work_dir=folders.vbench,
        device=_device(model),
        flow_side=evaluation.flow_side,
        workers=evaluation.workers,
        threads=model.threads,
        second_env=folders.vbench_env,
        env_option=folders.env_option,
    )
    scores = score_vbench(clips, evaluation.vbench_dimensions, scoring, require_any=False)
    return scores, manifest | {"scored": time.time(), "scored_clips": set_key(clips["key"])}


def measure(
    name: str,
    clips: pd.DataFrame,
    native_clips: pd.DataFrame,
    evaluation: EvaluationParams,
    generation: GenerationParams,
    model: ModelParams,
    folders: Folders,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Resolution-aware measures of one arm, and against the known truth on the miniature."""
    settle_torch(model.threads, model.deterministic)
    networks = Networks(evaluation, folders, _device(model))
    scores, spectrum = measure_arm(
        arm=name,
        clips=clips,
        native=native_clips,
        evaluation=evaluation,
        generation=generation,
        memory=folders.measured,
        networks=networks,
    )
    return pd.concat([scores, networks.rows(name, clips)], ignore_index=True), spectrum


def _device(model: ModelParams) -> str:
    return "cuda" if model.device != "cpu" and torch.cuda.is_available() else "cpu"


def gather_measured(**by_row: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Every arm's own scores ("scores-<arm>") as one table, and its spectra ("spectrum-<arm>"), in the arms' order."""
    scores, spectra = (pd.concat(of_kind(kind, by_row).values(), ignore_index=True) for kind in ("scores", "spectrum"))
    return scores, spectra


def collect_scores(evaluation: EvaluationParams, vbench_scores: pd.DataFrame, own_scores: pd.DataFrame) -> pd.DataFrame:
    """All scores in one long table: VBench's, every arm's own, and what is made of VBench's."""
    made = composite_scores(vbench_scores, evaluation.overall_dimensions)
    return pd.concat([vbench_scores, own_scores, made], ignore_index=True)
