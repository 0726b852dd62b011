"""A small data-parallel trainer for the miniature's base: checkpoints, exact resume, a progress bar.

Every random draw is seeded by (seed, step, rank), so a resumed run needs no random state and equals
a straight one. Two single-thread processes are as fast on two cores as two threads, and far more robust
when the machine is shared.
"""

import json
import logging
import math
import os
import socket
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train; `decay` is the last share of the steps, in which the rate falls to zero."""

    steps: int
    processes: int = 2
    warmup: int = 50
    decay: float = 0.45
    clip_norm: float = 1.0
    ema: float = 0.998
    save_every: int = 200
    log_every: int = 20
    seed: int = 0


@dataclass(frozen=True)
class Task:
    """What to train: built in every process.

    `build` returns a module whose forward takes a batch and returns named losses, the first key being
    `loss`; `optimizers` takes that module; `batch` draws one from a generator seeded by step and rank.
    """

    build: Callable[[], nn.Module]
    optimizers: Callable[[nn.Module], list[torch.optim.Optimizer]]
    batch: Callable[[np.random.Generator], object]
    bf16: bool = True


def rate_at(step: int, schedule: Schedule) -> float:
    """Learning-rate factor: linear warm-up, constant, linear decay to zero."""
    warm = min(1.0, (step + 1) / schedule.warmup)
    left = (schedule.steps - step) / max(1.0, schedule.decay * schedule.steps)
    return warm * min(1.0, left)


def train(task: Task, schedule: Schedule, folder: Path) -> dict[str, Tensor]:
    """Train to the end of the schedule, resuming from `folder`; return the averaged (EMA) weights.

    Args:
        task: Picklable: it is rebuilt in each process.
        schedule: Steps, processes, averaging.
        folder: Holds `checkpoint.pt` and `log.jsonl`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    mp.spawn(_work, args=(task, schedule, folder, port), nprocs=schedule.processes)
    return torch.load(folder / "checkpoint.pt", weights_only=True)["ema"]


def _work(rank: int, task: Task, schedule: Schedule, folder: Path, port: int) -> None:
    torch.set_num_threads(1)
    store = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=schedule.processes)
    torch.manual_seed(schedule.seed)
    module = task.build()
    optimizers = task.optimizers(module)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
    ema = deepcopy(module).requires_grad_(False)
    first = _load(folder, module, ema, optimizers)
    model = DistributedDataParallel(module, find_unused_parameters=True)
    bar = tqdm(range(first, schedule.steps), initial=first, total=schedule.steps, disable=rank > 0, mininterval=5)
    history, begun = [], time.monotonic()
    for step in bar:
        losses = _step(model=model, task=task, optimizers=optimizers, schedule=schedule, step=step, rank=rank)
        _average(ema, module, min(schedule.ema, (1 + step) / (10 + step)))
        history.append(losses)
        if rank == 0 and (step + 1) % schedule.log_every == 0:
            mean = {k: float(np.mean([h[k] for h in history if k in h])) for h in history for k in h}
            record = {"step": step + 1, "seconds": round(time.monotonic() - begun, 1)} | mean
            with (folder / "log.jsonl").open("a") as file:
                file.write(json.dumps(record) + "\n")
            bar.set_postfix({k: f"{v:.3f}" for k, v in mean.items()})
            history = []
        if rank == 0 and ((step + 1) % schedule.save_every == 0 or step + 1 == schedule.steps):
            _save(folder, step + 1, module, ema, optimizers)
    dist.barrier()
    dist.destroy_process_group()


def _step(
    model: nn.Module,
    task: Task,
    optimizers: list[torch.optim.Optimizer],
    schedule: Schedule,
    step: int,
    rank: int,
) -> dict[str, float]:
    rng = np.random.default_rng([schedule.seed, step, rank])
    torch.manual_seed(int(rng.integers(2**62)))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * rate_at(step, schedule)
    batch = task.batch(rng)
    with torch.autocast("cpu", torch.bfloat16, enabled=task.bf16):
        losses = model(batch)
    losses["loss"].backward()
    nn.utils.clip_grad_norm_(model.parameters(), schedule.clip_norm)
    if not math.isfinite(float(losses["loss"])):
        raise FloatingPointError(f"loss is {float(losses['loss'])} at step {step}, rank {rank}")
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return {k: float(v) for k, v in losses.items()}


@torch.no_grad()
def _average(ema: nn.Module, module: nn.Module, decay: float) -> None:
    averaged, current = list(ema.parameters()), [p.detach() for p in module.parameters()]
    torch._foreach_lerp_(averaged, current, 1 - decay)


def _save(folder: Path, step: int, module: nn.Module, ema: nn.Module, optimizers: list[torch.optim.Optimizer]) -> None:
    state = {
        "step": step,
        "module": module.state_dict(),
        "ema": ema.state_dict(),
        "optimizers": [o.state_dict() for o in optimizers],
    }
    torch.save(state, folder / "checkpoint.tmp")
    (folder / "checkpoint.tmp").replace(folder / "checkpoint.pt")


def _load(folder: Path, module: nn.Module, ema: nn.Module, optimizers: list[torch.optim.Optimizer]) -> int:
    if not (folder / "checkpoint.pt").exists():
        return 0
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    module.load_state_dict(state["module"])
    ema.load_state_dict(state["ema"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    log.info("resuming %s at step %d", folder, state["step"])
    return int(state["step"])
