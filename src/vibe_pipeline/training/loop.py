"""Training one adapter: a plain loop whose every random draw is a function of (seed, step).

A resumed run therefore equals a straight one without saving any random state: the checkpoint holds the adapter,
the optimiser and the step.
"""

import json
import logging
import math
import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor
from tqdm import tqdm

from vibe_pipeline.config import TrainParams
from vibe_pipeline.diffusion import adapters as lora
from vibe_pipeline.diffusion.flow import bell_weight, sample_sigma
from vibe_pipeline.diffusion.models import velocity_predictor
from vibe_pipeline.diffusion.objectives import Predict
from vibe_pipeline.identity import write_atomic
from vibe_pipeline.images.cache import LatentCache, epoch_batches

log = logging.getLogger(__name__)

Loss = Callable[[Predict, dict[str, Tensor], Tensor, Tensor, Tensor], dict[str, Tensor]]
"""(predict, batch of cached parts, noise, sigma, weight) to named losses, `loss` among them."""


@dataclass(frozen=True)
class Job:
    """What to train, where."""

    name: str
    transformer: WanTransformer3DModel
    cache: LatentCache
    part: str
    loss: Loss
    params: TrainParams
    expand_timesteps: bool
    device: torch.device
    dtype: torch.dtype
    folder: Path
    on_log: Callable[[list[dict[str, float]]], None] = lambda records: None


def train_adapter(job: Job) -> pd.DataFrame:
    """Train the adapter `job.name`, which must be on the transformer already, resuming from its folder.

    Returns:
        The log: step, loss and its parts, images_per_second, tokens_per_second; one row each `log_every` steps.

    Raises:
        FloatingPointError: The loss or its gradient is not finite; names the step and the images. The last
            checkpoint stays.
        ValueError: The checkpoint is damaged.
    """
    parameters = list(lora.adapter_parameters(job.transformer, job.name).values())
    optimiser = torch.optim.AdamW(
        parameters, lr=job.params.optimiser.learning_rate, weight_decay=job.params.optimiser.weight_decay
    )
    first, records, window, elapsed = _resume(job, optimiser)
    if records:
        job.on_log(records)  # a resumed run is a new MLflow run: it gets the whole curve
    batches = islice(epoch_batches(len(job.cache), job.params.batch_size, job.params.seed), first, None)
    begun = time.monotonic() - elapsed
    job.transformer.train()
    bar = tqdm(
        range(first, job.params.steps), initial=first, total=job.params.steps, desc=job.folder.name, mininterval=2
    )
    for step in bar:
        indices = next(batches)
        window.append(_step(job, optimiser, parameters, step, indices))
        if (step + 1) % job.params.log_every == 0 or step + 1 == job.params.steps:
            records.append(_record(job, step, window, time.monotonic() - begun))
            job.on_log(records[-1:])
            bar.set_postfix(loss=f"{records[-1]['loss']:.4f}")
            window, begun = [], time.monotonic()
        if (step + 1) % job.params.checkpoint_every == 0 and step + 1 < job.params.steps:
            _save(job, optimiser, step + 1, records, window, time.monotonic() - begun)
    job.transformer.eval()
    return pd.DataFrame(records)


def learning_rate_factor(step: int, params: TrainParams) -> float:
    """Warm-up, then constant or cosine to zero."""
    optimiser = params.optimiser
    warm = min(1.0, (step + 1) / max(1, optimiser.warmup_steps))
    if optimiser.schedule == "constant":
        return warm
    return warm * 0.5 * (1 + math.cos(math.pi * step / params.steps))


def _step(
    job: Job, optimiser: torch.optim.Optimizer, parameters: list[torch.nn.Parameter], step: int, indices: list[int]
) -> dict[str, float]:
    generator = torch.Generator().manual_seed(job.params.seed * 1_000_003 + step)
    batch = {name: job.cache.batch(name, indices) for name in (job.part, "pixel", "text")}
    noise = torch.randn(batch[job.part].shape, generator=generator).to(job.device)
    sigma = sample_sigma(len(indices), job.params.sigma_shift, generator).to(job.device)
    text = batch.pop("text")
    predict = velocity_predictor(job.transformer, text, job.expand_timesteps, job.dtype)
    on_device = {name: value.to(job.device) for name, value in batch.items()}
    weight = bell_weight(sigma, job.params.sigma_shift)
    for group in optimiser.param_groups:
        group["lr"] = job.params.optimiser.learning_rate * learning_rate_factor(step, job.params)
    with torch.autocast(job.device.type, torch.bfloat16, enabled=job.params.autocast):
        losses = job.loss(predict, on_device, noise, sigma, weight)
    images = [job.cache.entries[i].sha256 for i in indices]
    _require_finite(job, "loss", losses["loss"].detach(), step, images)
    losses["loss"].backward()
    norm = torch.nn.utils.clip_grad_norm_(parameters, job.params.optimiser.clip_norm or math.inf)
    _require_finite(job, "gradient norm", norm, step, images)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return {name: float(value.detach()) for name, value in losses.items()}


def _require_finite(job: Job, what: str, value: Tensor, step: int, images: list[str]) -> None:
    if not torch.isfinite(value):
        raise FloatingPointError(f"{job.name}: {what} is {float(value)} at step {step}, images {images}")


def _record(job: Job, step: int, window: list[dict[str, float]], seconds: float) -> dict[str, float]:
    images = len(window) * job.params.batch_size
    patch = job.transformer.config.patch_size
    shape = job.cache.parts[job.part][0].shape
    tokens = math.prod(s // p for s, p in zip(shape[-3:], patch, strict=True))
    mean = {k: sum(w[k] for w in window) / len(window) for k in window[0]}
    return (
        {"step": step + 1}
        | mean
        | {
            "images_per_second": images / seconds,
            "tokens_per_second": images * tokens / seconds,
        }
    )


def _save(
    job: Job,
    optimiser: torch.optim.Optimizer,
    step: int,
    records: list[dict[str, float]],
    window: list[dict[str, float]],
    elapsed: float,
) -> None:
    state: dict[str, Any] = {
        "step": step,
        "adapter": lora.adapter_state(job.transformer, job.name),
        "optimiser": optimiser.state_dict(),
        "progress": json.dumps([records, window, elapsed]),
    }
    write_atomic(job.folder / "checkpoint.pt", lambda p: torch.save(state, p))


def _resume(
    job: Job, optimiser: torch.optim.Optimizer
) -> tuple[int, list[dict[str, float]], list[dict[str, float]], float]:
    """The next step, the log, and the losses and seconds since its last line."""
    path = job.folder / "checkpoint.pt"
    if not path.exists():
        return 0, [], [], 0.0
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it and run again: training starts over") from error
    lora.set_adapter_state(job.transformer, job.name, state["adapter"])
    optimiser.load_state_dict(state["optimiser"])
    log.info("%s resumes at step %d from %s", job.name, state["step"], path)
    records, window, elapsed = json.loads(state["progress"])
    return int(state["step"]), records, window, elapsed
