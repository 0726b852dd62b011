"""Training one adapter: a plain loop whose every random draw is a function of (seed, step).

A resumed run therefore equals a straight one without saving any random state: the checkpoint holds the adapter,
its average, the optimiser and the step. The same holds for how a batch is divided among processes and
micro-batches, up to the order of sums.
"""

import json
import logging
import math
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import pandas as pd
import torch
from diffusers.training_utils import EMAModel
from torch import Tensor
from tqdm import tqdm

from vibe_pipeline.diffusion import lora
from vibe_pipeline.diffusion.flow import loss_weight
from vibe_pipeline.diffusion.models import velocity_predictor
from vibe_pipeline.images.cache import epoch_batches
from vibe_pipeline.io.errors import one_line
from vibe_pipeline.runtime.deadline import out_of_time, require_time
from vibe_pipeline.training.checkpoint import NAME, load_checkpoint, save_checkpoint
from vibe_pipeline.training.ema import averaged, make_ema
from vibe_pipeline.training.flops import count_flops
from vibe_pipeline.training.job import Batch, Job, draw_batch
from vibe_pipeline.training.optim import make_optimiser, set_learning_rate
from vibe_pipeline.training.throughput import Window, device_peak, peak_memory
from vibe_pipeline.training.validation import held_out_loss

log = logging.getLogger(__name__)

START_OVER = "delete it and run again: training starts over"


@dataclass
class Run:
    """A training run under way.

    Attributes:
        step: The next one, counted from 0.
        records: The log.
        window: What came since its last line.
        flops: Of one image, forward and backward, by token grid and text length.
        peak: TFLOP/s of all devices together, where known.
    """

    job: Job
    parameters: list[torch.nn.Parameter]
    optimiser: torch.optim.Optimizer
    ema: EMAModel | None
    peak: float | None
    step: int = 0
    records: list[dict[str, float]] = field(default_factory=list)
    window: Window = field(default_factory=Window)
    flops: dict[tuple[int, ...], float] = field(default_factory=dict)


def train_adapter(job: Job) -> pd.DataFrame:
    """Train the adapter `job.name`, which must be on the transformer already, resuming from its folder.

    Afterwards the transformer holds the adapter that is kept: its average where `ema_decay` asks for one.

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
    run = _start(job)
    params = job.params
    batches = islice(epoch_batches(job.cache, params.batch_size, params.seed), run.step, None)
    batch = draw_batch(job, run.step, next(batches)) if run.step < params.steps else None
    job.transformer.train()
    with _progress(run) as bar:
        while run.step < params.steps:
            values, forwards = _step(run, batch)
            step, done, run.step = run.step, batch, run.step + 1
            if run.step < params.steps:  # drawn while the device is at work
                batch = draw_batch(job, run.step, next(batches))
            losses = _finite(job, values, step, done)
            run.window.add(losses, *_work_done(run, done, forwards))
            _report(run, bar)
            if run.step < params.steps and job.group.leads:
                spent = out_of_time()
                if spent or run.step % params.checkpoint_every == 0:
                    _save(run)
                if spent:
                    require_time(f"{job.name} up to step {run.step} of {params.steps}")
    job.transformer.eval()
    if run.ema is not None:
        run.ema.copy_to(run.parameters)
    return pd.DataFrame(run.records)


def _start(job: Job) -> Run:
    if job.group.size > job.params.batch_size:
        raise ValueError(
            f"batch_size {job.params.batch_size} leaves some of {job.group.size} processes without an image"
        )
    if job.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(job.device)
    parameters = list(lora.adapter_parameters(job.transformer, job.name).values())
    optimiser = make_optimiser(parameters, job.params.optimiser)
    peak = device_peak(job.device) if job.params.autocast or job.dtype != torch.float32 else None
    run = Run(job, parameters, optimiser, make_ema(parameters, job.params.ema_decay), peak and peak * job.group.size)
    _resume(run)
    if job.params.gradient_checkpointing:
        job.transformer.enable_gradient_checkpointing()
    if job.params.compile:
        # Past its limit torch falls back to eager; each bucket needs whole and cut chunks, trained and measured.
        limit = 8 * len(job.cache.buckets)
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, limit)
        job.transformer.compile_repeated_blocks()
    return run


def _progress(run: Run) -> tqdm:
    steps = run.job.params.steps
    hidden = not run.job.group.leads
    return tqdm(initial=run.step, total=steps, desc=run.job.name, mininterval=2, disable=hidden)


def _step(run: Run, batch: Batch) -> tuple[dict[str, Tensor], int]:
    """One optimiser step.

    Returns:
        Losses and `gradient norm`, still on the device; and the forwards that each image took.
    """
    job, sums, forwards = run.job, {}, 0
    set_learning_rate(run.optimiser, run.step, job.params)
    for start in range(0, len(batch.sigma), job.chunk):
        losses, share, forwards = _chunk_losses(job, batch, slice(start, start + job.chunk))
        (losses["loss"] * share).backward()
        for name, value in losses.items():
            sums[name] = sums.get(name, 0) + value.detach().float() * share
    job.group.sum_([*sums.values(), *(p.grad for p in run.parameters)])
    sums["gradient norm"] = torch.nn.utils.clip_grad_norm_(run.parameters, job.params.optimiser.clip_norm or math.inf)
    run.optimiser.step()
    run.optimiser.zero_grad(set_to_none=True)
    if run.ema is not None:
        run.ema.step(run.parameters)
    return sums, forwards


def _chunk_losses(job: Job, batch: Batch, rows: slice) -> tuple[dict[str, Tensor], float, int]:
    """Losses of some of the images, their share of the whole batch, and how often the model was called."""
    parts = {name: value[rows].to(job.device) for name, value in batch.parts.items()}
    noise, sigma = batch.noise[rows].to(job.device), batch.sigma[rows].to(job.device)
    weight = loss_weight(job.params.loss_weighting, sigma, job.params.sigma_shift)
    velocity = velocity_predictor(job.transformer, parts.pop("text"), job.expand_timesteps, job.dtype)
    calls = []

    def predict(x: Tensor, level: Tensor) -> Tensor:
        calls.append(1)
        return velocity(x, level)

    with torch.autocast(job.device.type, torch.bfloat16, enabled=job.params.autocast):
        losses = job.loss(predict, parts, noise, sigma, weight)
    return losses, len(sigma) / len(batch.indices), len(calls)


def _finite(job: Job, values: dict[str, Tensor], step: int, batch: Batch) -> dict[str, float]:
    """The losses as numbers; one wait for the device.

    Raises:
        FloatingPointError: The loss or its gradient is not finite. All processes see the same and stop.
    """
    numbers = dict(zip(values, torch.stack([*values.values()]).tolist(), strict=True))
    for what in ("loss", "gradient norm"):
        if not math.isfinite(numbers[what]):
            images = [job.cache.entries[i].sha256 for i in batch.indices]
            raise FloatingPointError(f"{job.name}: {what} is {numbers[what]} at step {step}, images {images}")
    numbers.pop("gradient norm")
    return numbers


def _work_done(run: Run, batch: Batch, forwards: int) -> tuple[int, int, float]:
    """Images, tokens and floating-point operations of a step, over all processes."""
    job, count = run.job, len(batch.indices)
    patch = job.transformer.config.patch_size
    grid = tuple(s // p for s, p in zip(batch.noise.shape[-3:], patch, strict=True))
    key = (*grid, batch.parts["text"].shape[1])
    if key not in run.flops:
        run.flops[key] = count_flops(job.transformer, grid, key[-1]).total
    return count, count * math.prod(grid), count * forwards * run.flops[key]


def _report(run: Run, bar: tqdm) -> None:
    """Validate and log, if it is time."""
    job, params, last = run.job, run.job.params, run.step == run.job.params.steps
    validates = params.validate_every is not None and (last or run.step % params.validate_every == 0)
    bar.update()
    if not (validates or last or run.step % params.log_every == 0):
        return
    record = {"step": run.step} | run.window.record(run.peak, peak_memory(job.device))
    if validates:
        record |= _validate(run)
    run.records.append(record)
    run.window = Window()
    if job.group.leads:
        job.on_log([record])
    bar.set_postfix(loss=f"{record['loss']:.4f}")


def _validate(run: Run) -> dict[str, float]:
    job, found = run.job, {}
    job.transformer.eval()
    with averaged(run.ema, run.parameters):
        if job.held_out is not None:
            found["validation_loss"] = held_out_loss(replace(job, cache=job.held_out))
        if job.on_validate is not None and job.group.leads:
            with torch.no_grad():
                job.on_validate(job.transformer, run.step)
        job.group.wait()
    job.transformer.train()
    return found


def _save(run: Run) -> None:
    state: dict[str, Any] = {
        "step": run.step,
        "adapter": lora.adapter_state(run.job.transformer, run.job.name),
        "ema": run.ema and run.ema.state_dict(),
        "optimiser": run.optimiser.state_dict(),
        "progress": json.dumps({"records": run.records, "window": run.window.state()}),
    }
    save_checkpoint(state, run.job.folder)


def _require_own(run: Run, state: dict[str, Any]) -> None:
    """Refuse a checkpoint that is another adapter's: peft would load what fits and leave out the rest in silence."""
    job, place = run.job, run.job.folder / NAME
    if lacking := [name for name in ("adapter", "optimiser", "ema", "progress") if name not in state]:
        raise ValueError(f"{place} lacks {', '.join(lacking)}; {START_OVER}")
    own = {name: tuple(value.shape) for name, value in lora.adapter_state(job.transformer, job.name).items()}
    adapter = state["adapter"] if isinstance(state["adapter"], dict) else {}
    kept = {name: tuple(getattr(value, "shape", ())) for name, value in adapter.items()}
    if wrong := sorted((name for name in own.keys() | kept.keys() if own.get(name) != kept.get(name)), key=str):
        first = f"{one_line(wrong[0])} is {kept.get(wrong[0])} there, {own.get(wrong[0])} here"
        raise ValueError(f"{place} is of another adapter: {first}, {len(wrong)} differ; {START_OVER}")


def _take_up(run: Run, state: dict[str, Any]) -> None:
    """Put a checkpoint's content in place."""

    def average(values: dict[str, Any]) -> None:
        if run.ema is not None:
            run.ema.load_state_dict(values)
            run.ema.to(run.job.device)

    def progress(text: str) -> None:
        kept = json.loads(text)
        run.records, run.window = kept["records"], Window(**kept["window"])

    lora.set_adapter_state(run.job.transformer, run.job.name, state["adapter"])
    for name, take in (("optimiser", run.optimiser.load_state_dict), ("ema", average), ("progress", progress)):
        try:
            take(state[name])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            said = f"{type(error).__name__}: {one_line(error)}"
            raise ValueError(f"{run.job.folder / NAME}: its {name} cannot be used ({said}); {START_OVER}") from error
    run.step = state["step"]


def _resume(run: Run) -> None:
    """Go on from the checkpoint, if there is one; a new MLflow run gets the whole curve."""
    job, state = run.job, load_checkpoint(run.job.folder)
    steps = job.group.gather(state["step"] if state else 0)
    if len(set(steps)) > 1:
        raise ValueError(f"processes see checkpoints of steps {steps}: {job.folder} must be a folder that all share")
    if state is None:
        return
    _require_own(run, state)
    _take_up(run, state)
    log.info("%s resumes at step %d from %s", job.name, run.step, job.folder)
    if job.group.leads and run.records:
        job.on_log(run.records)
