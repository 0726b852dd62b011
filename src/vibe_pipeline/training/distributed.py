"""The processes that train together: how they are started, and what they tell each other.

Gradients are summed once a step, not inside DistributedDataParallel: each process scales its losses by its share of
the images, so that the sum is the mean over the global batch even where shares differ, and the only large exchange is
the adapter's gradient.

Processes are spawned, not forked: the parent may have used the GPU. Only paths and parameters travel to them. The
first error of any of them ends all of them.
"""

import logging
import os
import signal
import socket
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.queues import SimpleQueue
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from accelerate import PartialState
from accelerate.utils import patch_environment
from torch import Tensor
from torch.multiprocessing import _prctl_pr_set_pdeathsig

from vibe_pipeline.io.errors import one_line
from vibe_pipeline.runtime.deadline import OutOfTimeError
from vibe_pipeline.runtime.terminal import WholeLines, hush

log = logging.getLogger(__name__)

Records = list[dict[str, float]]
OnLog = Callable[[Records], None]
Work = Callable[..., None]
"""(group, on_log, *arguments): a function at the top level of a module."""

PATIENCE = timedelta(hours=6)
"""How long `Group.wait` waits: process 0 makes validation clips meanwhile."""

STEP_PATIENCE = timedelta(minutes=30)
"""How long any other exchange does: whoever is not there by then hangs, and every GPU that waits for it costs."""

POLL_SECONDS = 0.2


def no_log(records: Records) -> None:
    """Discard the records."""


@dataclass(frozen=True)
class Group:
    """This process among those that train together; alone on the CPU by default.

    Attributes:
        rank: 0 writes checkpoints, logs and the adapter.
        size: How many there are.
        device: This process's own.
        waiting: Of the same processes, for `wait`.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    waiting: dist.ProcessGroup | None = None

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
            dist.barrier(group=self.waiting)


def join_group(device: torch.device) -> Group:
    """Join the processes named in the environment (RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT).

    Args:
        device: Its type decides; with CUDA each process gets the GPU of its local rank.
    """
    state = PartialState(cpu=device.type == "cpu", timeout=STEP_PATIENCE)
    # By gloo on GPUs too: it sleeps, where NCCL keeps the GPU busy, and at once knows of a process that is gone.
    waiting = dist.new_group(backend="gloo", timeout=PATIENCE) if state.num_processes > 1 else None
    return Group(state.process_index, state.num_processes, state.device, waiting)


def require_devices(processes: int, device: torch.device) -> None:
    """Refuse more processes than GPUs.

    Raises:
        ValueError: Says how many there are.
    """
    if device.type == "cuda" and processes > torch.cuda.device_count():
        raise ValueError(
            f"processes is {processes}, but torch sees {torch.cuda.device_count()} GPUs: one each is needed"
        )


def run_processes(work: Work, arguments: tuple[Any, ...], processes: int, device: torch.device, on_log: OnLog) -> None:
    """Run `work(group, on_log, *arguments)` in that many new processes and wait for them.

    torch's `elastic_launch` would start them too, but the caller's thread would stand still in it: log lines would need
    a thread beside it, whose error (a full disk, say) could end nothing; and Ctrl-C, for the rest of the run, would be
    its SignalException, not the KeyboardInterrupt by which a run is known as stopped.

    Args:
        work: Picklable; its `on_log` sends records to the parent's.
        arguments: Picklable.
        processes: How many.
        device: Its type decides the exchange: gloo for the CPU, NCCL for CUDA.
        on_log: Called in this process, in order, with what any of them logs.

    Raises:
        ValueError: More processes than GPUs.
        OutOfTimeError: The run's hours are spent.
        RuntimeError: One failed; names the first that did and its error, whose traceback is logged. The others are
            ended.
    """
    require_devices(processes, device)
    queue: SimpleQueue = mp.get_context("spawn").SimpleQueue()
    shared = (processes, _free_port(), device, queue, work, arguments)
    context = mp.spawn(_process, args=shared, nprocs=processes, join=False)
    try:
        while not context.join(POLL_SECONDS):
            _drain(queue, on_log, context)
    except (mp.ProcessRaisedException, mp.ProcessExitedException) as error:
        _drain(queue, on_log, context)
        _require_unkilled(context)
        raise RuntimeError(f"training process {error.error_index} failed: {one_line(error, 400)}") from error
    finally:
        for process in context.processes:
            process.kill()  # those that ended take no harm; after Ctrl-C or an error of on_log none is left behind
            process.join()
    _drain(queue, on_log, context)


def _drain(queue: SimpleQueue, on_log: OnLog, context: mp.ProcessContext) -> None:
    """Hand over what came in; the first error that a process reported is the cause of all later ones.

    Raises:
        OutOfTimeError: The run's hours are spent.
        RuntimeError: Any other error.
    """
    while not queue.empty():
        rank, records, error = queue.get()
        if error is None:
            on_log(records)
            continue
        _require_unkilled(context)
        last = error.strip().splitlines()[-1]
        if OutOfTimeError.__name__ in last:
            raise OutOfTimeError(last.rpartition(f"{OutOfTimeError.__name__}: ")[2])
        log.error("training process %d:\n%s", rank, error)
        raise RuntimeError(f"training process {rank} failed: {one_line(last, 400)}")


def _require_unkilled(context: mp.ProcessContext) -> None:
    """Name a process that was killed: it said nothing, and the others say only that a connection broke.

    Raises:
        RuntimeError: There is one.
    """
    for rank, process in enumerate(context.processes):
        code = process.exitcode or 0
        if code < 0 and code != -signal.SIGTERM:  # by which torch ends the others after the first failure
            name = signal.Signals(-code).name
            hint = "; most often main memory ran out" if name == "SIGKILL" else ""
            raise RuntimeError(f"training process {rank} failed: it was ended by {name}{hint}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _process(
    rank: int,
    processes: int,
    port: int,
    device: torch.device,
    queue: SimpleQueue,
    work: Work,
    arguments: tuple[Any, ...],
) -> None:
    # torch asks for SIGINT when the parent dies, which an exchange under way, or its clean-up, can outlast
    _prctl_pr_set_pdeathsig(signal.SIGKILL)
    level = logging.INFO if rank == 0 else logging.WARNING
    logging.basicConfig(level=level, handlers=[WholeLines(f"[process {rank}] %(message)s")])
    hush()
    place = {"rank": rank, "local_rank": rank, "world_size": processes, "local_world_size": processes}
    address = {"master_addr": "127.0.0.1", "master_port": port}
    threads = int(os.environ.get("OMP_NUM_THREADS", max(1, (os.cpu_count() or 1) // processes)))
    torch.set_num_threads(threads)
    with patch_environment(**place, **address, omp_num_threads=threads):
        try:
            group = join_group(device)
            work(group, lambda records: queue.put((rank, records, None)), *arguments)
            group.wait()
        except Exception:
            queue.put((rank, [], traceback.format_exc()))
            raise
        dist.destroy_process_group()
