"""Optimisers by name, the learning rate over time, and the average of the weights over the steps (EMA)."""

import contextlib
import importlib.util
import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from diffusers.training_utils import EMAModel

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


def warm_up(step: int, steps: int) -> float:
    """The factor of the learning rate that rises in a line to 1 at the last of `steps`."""
    return min(1.0, (step + 1) / max(1, steps))


def learning_rate_factor(step: int, params: TrainParams) -> float:
    """Warm-up, then constant or cosine to zero."""
    optimiser = params.optimiser
    warm = warm_up(step, optimiser.warmup_steps)
    if optimiser.schedule == "constant":
        return warm
    return warm * 0.5 * (1 + math.cos(math.pi * step / params.steps))


def set_learning_rate(optimiser: torch.optim.Optimizer, step: int, params: TrainParams) -> None:
    """The rate of `step` for all parameters."""
    for group in optimiser.param_groups:
        group["lr"] = params.optimiser.learning_rate * learning_rate_factor(step, params)


def make_ema(parameters: Sequence[torch.nn.Parameter], decay: float | None) -> EMAModel | None:
    """An average with decay min(decay, (1 + n) / (10 + n)) at the n-th step after the first, or None for none."""
    return None if decay is None else EMAModel(parameters, decay=decay, foreach=True)


@contextlib.contextmanager
def averaged(ema: EMAModel | None, parameters: Sequence[torch.nn.Parameter]) -> Iterator[None]:
    """Within, the parameters hold their average; afterwards what they held before, bit for bit."""
    if ema is None:
        yield
        return
    ema.store(parameters)
    ema.copy_to(parameters)
    try:
        yield
    finally:
        ema.restore(parameters)
