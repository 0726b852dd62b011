"""The processes that train one adapter together, and what they tell each other.

Gradients are summed once a step, not inside DistributedDataParallel: each process scales its losses by its share of
the images, so that the sum is the mean over the global batch even where shares differ, and the only large exchange is
the adapter's gradient.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor

T = TypeVar("T")
PATIENCE = timedelta(hours=6)
"""How long a process waits for another: process 0 makes validation clips while the others wait."""


@dataclass(frozen=True)
class Group:
    """This process among those that train together; alone by default.

    Attributes:
        rank: 0 writes checkpoints, logs and the adapter.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes files and logs."""
        return self.rank == 0

    def bounds(self, count: int) -> tuple[int, int]:
        """First and last + 1 of this process's items among `count`; shares differ by one at most."""
        return self.rank * count // self.size, (self.rank + 1) * count // self.size

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the processes, in one exchange per dtype."""
        if self.size == 1:
            return
        for dtype in sorted({t.dtype for t in tensors}, key=str):
            same = [t for t in tensors if t.dtype == dtype]
            flat = torch.cat([t.flatten() for t in same])
            dist.all_reduce(flat)
            for tensor, part in zip(same, flat.split([t.numel() for t in same]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def gather(self, value: int) -> list[int]:
        """One number of every process, by rank."""
        if self.size == 1:
            return [value]
        values: list[int] = [0] * self.size
        dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Return once every process got here."""
        if self.size > 1:
            dist.barrier()


def join_group(device: torch.device) -> tuple[Group, torch.device]:
    """Join the processes named in the environment (RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT).

    Returns:
        The group, and this process's device: with CUDA the GPU of its local rank.
    """
    state = PartialState(cpu=device.type == "cpu", timeout=PATIENCE)
    return Group(state.process_index, state.num_processes), state.device
