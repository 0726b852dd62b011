"""Drawing ahead: results of a function in the order of its arguments, made by processes beside the one that uses them.

A GPU trains faster than one core renders. The processes render alone: they never touch the GPU.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from accelerate.utils import patch_environment
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_convert

EACH = 4
"""Results that wait for every process."""


def generator_of(seed: int, rank: int, step: int) -> tuple[np.random.Generator, int]:
    """The generator of a training's step and process, and its first number, which is torch's seed."""
    rng = np.random.default_rng([seed, step, rank])
    return rng, int(rng.integers(2**62))


def batch_of(batch: Callable[[np.random.Generator], object], seed: int, rank: int, step: int) -> object:
    """The batch of a step, the same in whatever process it is drawn."""
    return batch(generator_of(seed, rank, step)[0])


class _Results(Dataset[Any]):
    """`draw` of an argument, with arrays for tensors: those travel by pipe, where /dev/shm may be too small."""

    def __init__(self, draw: Callable[[int], object], arguments: Sequence[int]) -> None:
        self.draw, self.arguments = draw, arguments

    def __len__(self) -> int:
        return len(self.arguments)

    def __getitem__(self, index: int) -> object:
        drawn = self.draw(self.arguments[index])
        return tuple(map(_array, drawn)) if isinstance(drawn, tuple) else _array(drawn)


def _array(value: object) -> object:
    return value.numpy() if isinstance(value, Tensor) else value


def _as_it_is(value: object) -> object:
    return value


def results(draw: Callable[[int], object], arguments: Sequence[int], workers: int = 0) -> Iterable[Any]:
    """`draw(a)` of all arguments, in their order.

    Args:
        draw: Gives a tensor, or a tuple of tensors and plain values; with workers it is pickled once for each.
        arguments: Whole numbers, a range for example.
        workers: Single-thread processes that draw ahead, a few results each; 0: drawn here, when asked for.

    Raises:
        RuntimeError: A worker failed or was killed.
    """
    if not workers:
        yield from map(draw, arguments)
        return
    loader = DataLoader(
        _Results(draw, arguments),
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_it_is,
        prefetch_factor=EACH,
        pin_memory=torch.cuda.is_available(),  # its thread takes them from the pipes meanwhile
        multiprocessing_context="spawn",  # the parent uses a GPU and has threads
    )
    with patch_environment(omp_num_threads=1, openblas_num_threads=1, mkl_num_threads=1):
        drawn = iter(loader)
    yield from map(default_convert, drawn)


def moved(batch: object, device: torch.device) -> object:
    """A tensor, or a tuple of tensors, on a device."""
    if isinstance(batch, tuple | list):
        return tuple(moved(part, device) for part in batch)
    return batch.to(device) if isinstance(batch, Tensor) else batch
