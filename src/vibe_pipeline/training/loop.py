"""Training one adapter: a plain loop whose every random draw is a function of (seed, step).

A resumed training therefore equals a straight one without saving any random state: the checkpoint holds the adapter,
its average, the optimiser and the step. The same holds for how a batch is divided among processes and
micro-batches, up to the order of sums.
"""

import math
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pandas as pd
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from vibe_pipeline.diffusion import lora
from vibe_pipeline.diffusion.compiling import compile_for_training
from vibe_pipeline.diffusion.crops import Placed
from vibe_pipeline.diffusion.flops import transformer_flops
from vibe_pipeline.diffusion.flow import loss_weight
from vibe_pipeline.diffusion.models import velocity_predictor
from vibe_pipeline.images.cache import epoch_batches
from vibe_pipeline.runtime.deadline import OutOfTimeError, out_of_time, spent
from vibe_pipeline.runtime.progress import Progress
from vibe_pipeline.training.checkpoint import resume, save_state
from vibe_pipeline.training.distributed import Group, OnLog, no_log
from vibe_pipeline.training.job import Batch, TrainingJob, TrainingState, draw_batch
from vibe_pipeline.training.optim import averaged, make_ema, make_optimiser, set_learning_rate
from vibe_pipeline.training.packed import PackedBatch, draw_packed, packed_steps, sequence_losses
from vibe_pipeline.training.throughput import Window, device_peak, peak_memory
from vibe_pipeline.training.validation import held_out_loss

STOP = "out of time"
"""How many processes found the run's hours spent, beside a step's losses."""


def train_adapter(
    job: TrainingJob, transformer: WanTransformer3DModel, group: Group | None = None, on_log: OnLog = no_log
) -> pd.DataFrame:
    """Train the adapter `job.name`, which must be on the transformer already, resuming from the job's folder.

    Afterwards the transformer holds the adapter that is kept: its average where `ema_decay` asks for one.

    Args:
        job: What to do.
        transformer: With the adapter and the attention that it is trained with, on the group's device.
        group: The processes that train together, and this one's device; None: this process alone, on the CPU.
        on_log: Gets new log lines, on the first process only.

    Returns:
        The log, one row each `log_every` steps and at each validation: step, loss and its parts, images_per_second,
        tokens_per_second, teraflops_per_second, share_of_peak (on known GPUs), peak_memory_gb, seconds,
        validation_loss (where asked for).

    Raises:
        FloatingPointError: The loss or its gradient is not finite; names the step and the images. The last
            checkpoint stays.
        ValueError: Every checkpoint is damaged, or the processes do not see the same one, or outnumber the images
            of a step.
        OutOfTimeError: The run's hours are spent; the step is kept in a checkpoint.
    """
    state = _start(job, transformer, group or Group(), on_log)
    batches = _batches(state)
    draw = draw_packed if job.row.packing else draw_batch
    batch = draw(job, state.group, state.step, next(batches)) if state.step < job.row.steps else None
    transformer.train()
    with _progress(state) as bar:
        _show(state)  # it may have been stopped amid them; those that are there are found again
        while batch is not None:
            values, forwards = _step(state, batch)
            step, done, state.step = state.step, batch, state.step + 1
            # The next is drawn while the device is at work.
            batch = draw(job, state.group, state.step, next(batches)) if state.step < job.row.steps else None
            numbers = _finite(job, values, step, done)
            stop = numbers.pop(STOP) > 0
            state.window.add(numbers, *_work_done(state, done, forwards))
            _report(state, bar)
            _keep(state, stop)
            _show(state)
    transformer.eval()
    if state.ema is not None:
        state.ema.copy_to(state.parameters)
    return pd.DataFrame(state.records)


def _batches(state: TrainingState) -> Iterator[Any]:
    """The images of every step that is left, as `draw_batch` or `draw_packed` takes them."""
    job = state.job
    if job.row.packing is not None:
        return packed_steps(job, state.transformer.config.patch_size, state.step, tell=state.group.leads)
    return islice(epoch_batches(job.images, job.row.batch_size, job.row.seed), state.step, None)


def _keep(state: TrainingState, stop: bool) -> None:
    """Write a checkpoint, if it is time, if clips are to be made, which may take hours and fail, or if time is up.

    Args:
        state: After a step.
        stop: Some process found the run's hours spent: all of them end here, none waits for another.

    Raises:
        OutOfTimeError: The run's hours are spent.
    """
    job, row = state.job, state.job.row
    if state.step >= row.steps:
        return
    if state.group.leads and (stop or _shows(state) or state.step % row.checkpoint_every == 0):
        save_state(state)
    if stop:
        state.group.wait()  # until it is written: the first to leave ends the others
        raise OutOfTimeError(spent(f"{job.name} up to step {state.step} of {row.steps}"))


def _start(job: TrainingJob, transformer: WanTransformer3DModel, group: Group, on_log: OnLog) -> TrainingState:
    row = job.row
    if group.size > row.batch_size:
        raise ValueError(f"batch_size {row.batch_size} leaves some of {group.size} processes without an image")
    if group.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(group.device)
    parameters = list(lora.adapter_parameters(transformer, job.name).values())
    peak = device_peak(group.device) if row.autocast or job.dtype != torch.float32 else None
    state = TrainingState(
        job=job,
        transformer=transformer,
        group=group,
        on_log=on_log,
        parameters=parameters,
        optimiser=make_optimiser(parameters, row.optimiser),
        ema=make_ema(parameters, row.ema_decay),
        peak=peak and peak * group.size,
    )
    resume(state)
    if row.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    if row.compile:
        compile_for_training(transformer, shapes=len(job.images.buckets))
    return state


def _progress(state: TrainingState) -> Progress[None]:
    steps = state.job.row.steps
    hidden = not state.group.leads
    return Progress(initial=state.step, total=steps, desc=state.job.name, hidden=hidden)


def _step(state: TrainingState, batch: Batch | PackedBatch) -> tuple[dict[str, Tensor], int]:
    """One optimiser step.

    Returns:
        Losses, `gradient norm` and how many processes found the run's hours spent, still on the device; and the
        forwards that each image took.
    """
    job, forwards = state.job, 0
    sums: dict[str, Any] = {}
    set_learning_rate(state.optimiser, state.step, job.row)
    for losses, share, calls in _losses(state, batch):
        forwards = calls
        (losses["loss"] * share).backward()
        for name, value in losses.items():
            sums[name] = sums.get(name, 0) + value.detach().float() * share
    sums[STOP] = torch.full((), float(out_of_time()), device=state.group.device)
    state.group.sum_([*sums.values(), *(p.grad for p in state.parameters)])
    sums["gradient norm"] = torch.nn.utils.clip_grad_norm_(state.parameters, job.row.optimiser.clip_norm or math.inf)
    state.optimiser.step()
    state.optimiser.zero_grad(set_to_none=True)
    if state.ema is not None:
        state.ema.step(state.parameters)
    return sums, forwards


def _losses(state: TrainingState, batch: Batch | PackedBatch) -> Iterator[tuple[dict[str, Tensor], float, int]]:
    """What each forward of this process loses, one after the other; see `_chunk_losses`."""
    if isinstance(batch, PackedBatch):
        for images in batch.sequences:
            losses, calls = sequence_losses(state.job, state.transformer, state.group.device, images)
            yield losses, len(images) / len(batch.indices), calls
        return
    size = state.job.chunk(state.group.size)
    for start in range(0, len(batch.sigma), size):
        yield _chunk_losses(state, batch, slice(start, start + size))


def _chunk_losses(state: TrainingState, batch: Batch, rows: slice) -> tuple[dict[str, Tensor], float, int]:
    """Losses of some of the images, their share of the whole batch, and how often the model was called."""
    job, device = state.job, state.group.device
    parts = {name: value[rows].to(device) for name, value in batch.parts.items()}
    noise, sigma = batch.noise[rows].to(device), batch.sigma[rows].to(device)
    row = job.row
    weight = loss_weight(row.loss_weighting, sigma, row.sigma_shift, row.logit_mean, row.logit_std)
    velocity = velocity_predictor(state.transformer, parts.pop("text"), job.expand_timesteps, job.dtype)
    calls = []

    def predict(x: Tensor, level: Tensor, *placed: Placed) -> Tensor:
        calls.append(1)
        return velocity(x, level, *placed)

    with torch.autocast(device.type, torch.bfloat16, enabled=row.autocast):
        losses = job.loss(predict, parts, noise, sigma, weight)
    return losses, len(sigma) / len(batch.indices), len(calls)


def _finite(job: TrainingJob, values: dict[str, Tensor], step: int, batch: Batch | PackedBatch) -> dict[str, float]:
    """The losses as numbers; one wait for the device.

    Raises:
        FloatingPointError: The loss or its gradient is not finite. All processes see the same and stop.
    """
    numbers = dict(zip(values, torch.stack([*values.values()]).tolist(), strict=True))
    for what in ("loss", "gradient norm"):
        if not math.isfinite(numbers[what]):
            images = [job.images.entries[i].sha256 for i in batch.indices]
            raise FloatingPointError(f"{job.name}: {what} is {numbers[what]} at step {step}, images {images}")
    numbers.pop("gradient norm")
    return numbers


def _work_done(state: TrainingState, batch: Batch | PackedBatch, forwards: int) -> tuple[int, int, float]:
    """Images, tokens and floating-point operations of a step, over all processes."""
    crop, grids = state.job.loss.crop, Counter[tuple[int, int, int]]()
    for shape, images in batch.shapes.items():
        frames, height, width = (s // p for s, p in zip(shape[-3:], state.transformer.config.patch_size, strict=True))
        grids[(frames, height, width) if crop is None else (1, 1, crop.tokens((height, width)))] += images
    text = batch.text_length
    for grid in grids:
        if (*grid, text) not in state.flops:
            packed = isinstance(batch, PackedBatch)
            state.flops[*grid, text] = transformer_flops(state.transformer, grid, text, packed).total
    tokens = sum(count * math.prod(grid) for grid, count in grids.items())
    return len(batch.indices), tokens, sum(n * forwards * state.flops[*grid, text] for grid, n in grids.items())


def _report(state: TrainingState, bar: Progress[None]) -> None:
    """Validate and log, if it is time."""
    row, last = state.job.row, state.step == state.job.row.steps
    bar.update()
    if not (_validates(state) or last or state.step % row.log_every == 0):
        return
    record = {"step": state.step} | state.window.record(state.peak, peak_memory(state.group.device))
    if _validates(state) and state.job.held_out is not None:
        state.transformer.eval()
        with averaged(state.ema, state.parameters):
            record["validation_loss"] = held_out_loss(state.job, state.transformer, state.group)
        state.transformer.train()
    state.records.append(record)
    state.window = Window()
    if state.group.leads:
        state.on_log([record])
    bar.set_postfix(loss=f"{record['loss']:.4f}")


def _validates(state: TrainingState) -> bool:
    """Whether what is trained is looked at after this step."""
    every = state.job.row.validate_every
    return every is not None and state.step > 0 and (state.step == state.job.row.steps or state.step % every == 0)


def _shows(state: TrainingState) -> bool:
    """Whether clips are made after this step."""
    return state.job.on_validate is not None and _validates(state)


def _show(state: TrainingState) -> None:
    """Make clips, if it is time; the other processes wait."""
    if not _shows(state):
        return
    state.transformer.eval()
    if state.group.leads:
        assert state.job.on_validate is not None
        with averaged(state.ema, state.parameters), torch.no_grad():
            state.job.on_validate(state.transformer, state.step)
    state.group.wait()
    state.transformer.train()
    state.window.begun = time.monotonic()  # steps are not slower for it
