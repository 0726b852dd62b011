"""Training a whole module from nothing, as the miniature's base is: checkpoints, exact resume, an average of weights.

Where an adapter's processes share one batch, these draw each their own, by (seed, step, rank): a resumed training needs
no random state and equals a straight one. Two processes of one thread are as fast on two cores as two threads, and far
more robust when the machine is shared. Beside a GPU, workers draw the batches ahead (`runtime.ahead`).
"""

import json
import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vibe_pipeline.runtime.ahead import batch_of, generator_of, moved, results
from vibe_pipeline.runtime.deadline import out_of_time, require_time
from vibe_pipeline.runtime.progress import Progress
from vibe_pipeline.training.checkpoint import NAME, START_OVER, load_checkpoint, save_checkpoint
from vibe_pipeline.training.distributed import Group, OnLog, Records, run_processes
from vibe_pipeline.training.optim import averaged, make_ema, warm_up

log = logging.getLogger(__name__)

CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class ModuleJob:
    """What to train, and how long and how fast; picklable, since the module is built in every process.

    Attributes:
        folder: Gets checkpoints and `log.jsonl`.
        build: Gives a module whose forward takes a batch and returns named losses, `loss` among them.
        optimisers: Of that module; each parameter group's rate is what the schedule multiplies.
        batch: Draws one, a tensor or a tuple of tensors, from a generator seeded by step and process.
        seconds: It ends after so much time from the first batch, all resumptions together, if its steps do not end
            before; needs one process.
        decay: The last share of the steps, or of the seconds if these end sooner, in which the rate falls to zero.
        ema: Decay of the average of the weights.
        keep: Called with the module, its averaged weights in place, at every checkpoint: what a user wants of it.
        device: Where it is trained.
        workers: Processes that draw batches ahead; 0: each is drawn when it is needed.
    """

    name: str
    folder: Path
    build: Callable[[], nn.Module]
    optimisers: Callable[[nn.Module], list[torch.optim.Optimizer]]
    batch: Callable[[np.random.Generator], object]
    steps: int
    seconds: float = math.inf
    processes: int = 2
    warmup: int = 50
    decay: float = 0.45
    clip_norm: float = 1.0
    ema: float = 0.998
    save_every: int = 200
    log_every: int = 20
    seed: int = 0
    bf16: bool = True
    keep: Callable[[nn.Module], None] | None = None
    device: torch.device = CPU
    workers: int = 0

    def __post_init__(self) -> None:
        if self.processes > 1 and self.seconds < math.inf:
            raise ValueError(
                f"{self.name}: seconds bound a training of one process, its clock; there are {self.processes}"
            )


@dataclass(kw_only=True)
class ModuleState:
    """A module's training under way in this process.

    Attributes:
        rates: The optimisers' own, by group.
        spent: Seconds since the first batch, those before a resumption included.
        begun: When the clock would have begun, had all steps been done at a stretch.
    """

    job: ModuleJob
    group: Group
    module: nn.Module
    optimisers: list[torch.optim.Optimizer]
    rates: list[list[float]]
    ema: EMAModel
    step: int = 0
    spent: float = 0.0
    losses: Records = field(default_factory=list)
    begun: float = 0.0

    @property
    def done(self) -> bool:
        """Whether its steps or its seconds are over."""
        return self.step >= self.job.steps or self.spent >= self.job.seconds


def rate_at(step: int, job: ModuleJob, spent: float = 0.0) -> float:
    """Learning-rate factor: linear warm-up, constant, linear decay to zero.

    Args:
        step: Steps done.
        job: Its steps and seconds; whichever are nearer their end decide.
        spent: Seconds.
    """
    left = min((job.steps - step) / max(1.0, job.decay * job.steps), (1 - spent / job.seconds) / max(1e-9, job.decay))
    return warm_up(step, job.warmup) * max(0.0, min(1.0, left))


def train_module(job: ModuleJob) -> nn.Module:
    """Train to the end of the schedule, resuming from the job's folder.

    Returns:
        The module with its averaged weights.

    Raises:
        FloatingPointError: The loss is not finite, in this process; elsewhere a RuntimeError that says so.
        ValueError: Every checkpoint is damaged or of another training.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    def note(records: Records) -> None:
        with (job.folder / "log.jsonl").open("a") as file:
            file.writelines(json.dumps(record) + "\n" for record in records)

    if job.processes > 1:
        run_processes(work, (job,), job.processes, job.device, note)
    else:
        with torch.random.fork_rng():
            work(Group(device=job.device), note, job)
    state = _start(job, Group())
    state.ema.copy_to(state.module.parameters())
    return state.module


def work(group: Group, on_log: OnLog, job: ModuleJob) -> None:
    """Train as one process of a group; the first writes checkpoints."""
    if group.size > 1:
        torch.set_num_threads(1)
    state = _start(job, group)
    model = state.module
    if group.size > 1:
        model = DistributedDataParallel(model, find_unused_parameters=True)
    bar = Progress[None](initial=state.step, total=job.steps, desc=job.name, hidden=not group.leads)
    with bar:
        _to_the_end(state, model, bar, on_log)


def _to_the_end(state: ModuleState, model: nn.Module, bar: Progress[None], on_log: OnLog) -> None:
    """Step after step, from where the state is."""
    job, group = state.job, state.group
    draw = partial(batch_of, job.batch, job.seed, group.rank)
    for batch in results(draw, range(state.step, job.steps), job.workers):
        if state.done:
            break
        state.begun = state.begun or time.monotonic() - state.spent  # workers take a while to start
        state.losses.append(_step(state, model, moved(batch, group.device)))
        state.step += 1
        state.spent = time.monotonic() - state.begun
        bar.update()
        if not group.leads:
            state.losses.clear()
            continue
        if state.step % job.log_every == 0 or state.done:
            record = _record(state)
            on_log([record])
            bar.set_postfix(loss=f"{record['loss']:.3f}")
        _keep(state)


def _start(job: ModuleJob, group: Group) -> ModuleState:
    """A fresh module, or what the folder's checkpoint holds."""
    torch.manual_seed(job.seed)
    module = job.build().to(group.device)
    optimisers = job.optimisers(module)
    rates = [[part["lr"] for part in optimiser.param_groups] for optimiser in optimisers]
    ema = make_ema(list(module.parameters()), job.ema)
    state = ModuleState(job=job, group=group, module=module, optimisers=optimisers, rates=rates, ema=ema)
    if (saved := load_checkpoint(job.folder)) is not None:
        _take_up(state, saved)
    return state


def _take_up(state: ModuleState, saved: dict[str, Any]) -> None:
    try:
        state.module.load_state_dict(saved["module"])
        state.ema.load_state_dict(saved["ema"])
        state.ema.to(state.group.device)
        for optimiser, own in zip(state.optimisers, saved["optimisers"], strict=True):
            optimiser.load_state_dict(own)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        place = state.job.folder / NAME
        raise ValueError(f"{place} is of another training ({type(error).__name__}); {START_OVER}") from error
    state.step, state.spent = saved["step"], saved.get("spent", 0.0)
    if not state.done:
        log.info("%s resumes at step %d of %d in %s", state.job.name, state.step, state.job.steps, state.job.folder)


def _step(state: ModuleState, model: nn.Module, batch: object) -> dict[str, float]:
    """One step of every optimiser; the losses of this process."""
    job = state.job
    torch.manual_seed(generator_of(job.seed, state.group.rank, state.step)[1])
    factor = rate_at(state.step, job, state.spent)
    for optimiser, rates in zip(state.optimisers, state.rates, strict=True):
        for part, rate in zip(optimiser.param_groups, rates, strict=True):
            part["lr"] = rate * factor
    with torch.autocast(state.group.device.type, torch.bfloat16, enabled=job.bf16):
        losses: dict[str, Tensor] = model(batch)
    losses["loss"].backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), job.clip_norm)
    for optimiser in state.optimisers:
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    state.ema.step(state.module.parameters())
    # Read once, and last: a GPU would stand idle while the optimisers are told what to do.
    # The gradient is the mean of all processes': each of them sees what any other's loss did to it.
    values = torch.stack([norm.detach().float(), *(value.detach().float() for value in losses.values())]).tolist()
    found = dict(zip(losses, values[1:], strict=True))
    for what, value in (("loss", found["loss"]), ("gradient norm", values[0])):
        if not math.isfinite(value):  # before a checkpoint could hold what it did to the weights
            raise FloatingPointError(f"{job.name}: {what} is {value} at step {state.step}, process {state.group.rank}")
    return found


def _record(state: ModuleState) -> dict[str, float]:
    """The mean of the losses since the last log line."""
    names = {name: None for losses in state.losses for name in losses}
    mean = {k: float(np.mean([losses[k] for losses in state.losses if k in losses])) for k in names}
    state.losses.clear()
    return {"step": state.step, "seconds": round(state.spent, 1)} | mean


def _keep(state: ModuleState) -> None:
    """Write a checkpoint, if it is time or time is up.

    Raises:
        OutOfTimeError: The run's hours are spent.
    """
    job, last = state.job, state.done
    spent = out_of_time() and not last
    if spent or last or state.step % job.save_every == 0:
        saved = {
            "step": state.step,
            "spent": state.spent,
            "module": state.module.state_dict(),
            "ema": state.ema.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in state.optimisers],
        }
        save_checkpoint(saved, job.folder)
        if job.keep is not None:
            with averaged(state.ema, list(state.module.parameters())):
                job.keep(state.module)
    if spent:
        require_time(f"{job.name} up to step {state.step} of {job.steps}")
