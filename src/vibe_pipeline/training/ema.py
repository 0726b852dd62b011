"""An average of the adapter over the steps (EMA), by diffusers."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from diffusers.training_utils import EMAModel


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
