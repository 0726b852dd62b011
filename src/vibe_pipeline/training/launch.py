"""Starting training processes on this machine, and hearing from them.

Processes are spawned, not forked: the parent may have used the GPU. Only paths and parameters travel to them. The
first error of any of them ends all of them.
"""

import logging
import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing.queues import SimpleQueue
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from accelerate.utils import patch_environment

from vibe_pipeline.runtime.deadline import OutOfTimeError
from vibe_pipeline.training.distributed import join_group

Records = list[dict[str, float]]
Work = Callable[..., None]
"""(group, device, on_log, *arguments): a function at the top level of a module."""

POLL_SECONDS = 0.2


def require_devices(processes: int, device: torch.device) -> None:
    """Refuse more processes than GPUs.

    Raises:
        ValueError: Says how many there are.
    """
    if device.type == "cuda" and processes > torch.cuda.device_count():
        raise ValueError(
            f"processes is {processes}, but torch sees {torch.cuda.device_count()} GPUs: one each is needed"
        )


def run_processes(
    work: Work, arguments: tuple[Any, ...], processes: int, device: torch.device, on_log: Callable[[Records], None]
) -> None:
    """Run `work(group, device, on_log, *arguments)` in that many new processes and wait for them.

    Args:
        work: Picklable; its `on_log` sends records to the parent's.
        arguments: Picklable.
        processes: How many.
        device: Its type decides the exchange: gloo for the CPU, NCCL for CUDA.
        on_log: Called in this process, in order, with what any of them logs.

    Raises:
        ValueError: More processes than GPUs.
        OutOfTimeError: The run's hours are spent.
        RuntimeError: One failed; carries the traceback of the first that did. The others are ended.
    """
    require_devices(processes, device)
    queue: SimpleQueue = mp.get_context("spawn").SimpleQueue()
    shared = (processes, _free_port(), device, queue, work, arguments)
    context = mp.spawn(_process, args=shared, nprocs=processes, join=False)
    try:
        while not context.join(POLL_SECONDS):
            _drain(queue, on_log)
    except (mp.ProcessRaisedException, mp.ProcessExitedException) as error:
        _drain(queue, on_log)
        raise RuntimeError(f"training process {error.error_index} of {processes} failed: {error}") from error
    finally:
        for process in context.processes:
            process.kill()  # those that ended take no harm; after Ctrl-C or an error of on_log none is left behind
            process.join()
    _drain(queue, on_log)


def _drain(queue: SimpleQueue, on_log: Callable[[Records], None]) -> None:
    """Hand over what came in; the first error that a process reported is the cause of all later ones.

    Raises:
        OutOfTimeError: The run's hours are spent.
        RuntimeError: Any other error.
    """
    while not queue.empty():
        rank, records, error = queue.get()
        if error is not None:
            if OutOfTimeError.__name__ in error:
                raise OutOfTimeError(error.strip().rpartition(f"{OutOfTimeError.__name__}: ")[2])
            raise RuntimeError(f"training process {rank} failed:\n{error}")
        on_log(records)


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
    logging.basicConfig(level=logging.INFO if rank == 0 else logging.WARNING, format=f"[process {rank}] %(message)s")
    place = {"rank": rank, "local_rank": rank, "world_size": processes, "local_world_size": processes}
    address = {"master_addr": "127.0.0.1", "master_port": port}
    threads = int(os.environ.get("OMP_NUM_THREADS", max(1, (os.cpu_count() or 1) // processes)))
    torch.set_num_threads(threads)
    with patch_environment(**place, **address, omp_num_threads=threads):
        try:
            group, own_device = join_group(device)
            work(group, own_device, lambda records: queue.put((rank, records, None)), *arguments)
            group.wait()
        except Exception:
            queue.put((rank, [], traceback.format_exc()))
            raise
        dist.destroy_process_group()
