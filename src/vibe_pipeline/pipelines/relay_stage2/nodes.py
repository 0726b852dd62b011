"""Nodes of relay_stage2: one per row of `adapters`."""

from pathlib import Path
from typing import Any

from vibe_pipeline.config import AdapterParams, ModelParams
from vibe_pipeline.tracking import tracked_adapter
from vibe_pipeline.training.relay import train_stage2

ADAPTERS = Path("data/06_models/adapters")


def train_resolution(
    name: str,
    latent_cache: dict[str, Any],
    degradation_checks: Any,
    model: ModelParams,
    row: AdapterParams,
    stage1: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Train D2 on high-resolution images; with `stage1` fused and frozen, or on the original base."""
    with tracked_adapter(name, "stage2", row, degradation_checks) as run:
        return run.finish(train_stage2(name, latent_cache, stage1, model, row, ADAPTERS, run.log))
