"""Optimisers by name, and the learning rate over time."""

import importlib.util
import math
from collections.abc import Iterable

import torch

from vibe_pipeline.experiment.training import OptimiserParams, TrainParams


def make_optimiser(parameters: Iterable[torch.nn.Parameter], params: OptimiserParams) -> torch.optim.Optimizer:
    """AdamW, or bitsandbytes' 8-bit AdamW.

    Raises:
        ModuleNotFoundError: `adamw_8bit` without bitsandbytes; names the command that installs it.
    """
    shape = {"lr": params.learning_rate, "weight_decay": params.weight_decay}
    if params.kind == "adamw":
        return torch.optim.AdamW(parameters, **shape)
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModuleNotFoundError(
            "optimiser.kind adamw_8bit needs bitsandbytes: pip install bitsandbytes, or use kind adamw"
        )
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit(parameters, **shape)


def learning_rate_factor(step: int, params: TrainParams) -> float:
    """Warm-up, then constant or cosine to zero."""
    optimiser = params.optimiser
    warm = min(1.0, (step + 1) / max(1, optimiser.warmup_steps))
    if optimiser.schedule == "constant":
        return warm
    return warm * 0.5 * (1 + math.cos(math.pi * step / params.steps))


def set_learning_rate(optimiser: torch.optim.Optimizer, step: int, params: TrainParams) -> None:
    """The rate of `step` for all parameters."""
    for group in optimiser.param_groups:
        group["lr"] = params.optimiser.learning_rate * learning_rate_factor(step, params)
