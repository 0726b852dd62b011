"""The two stages of Relay LoRA: what each trains, on what, with which loss."""

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from vibe_pipeline.config import AdapterParams, ModelParams, Stage1Params, TrainParams
from vibe_pipeline.diffusion import adapters as lora
from vibe_pipeline.diffusion.attention import install_gclf
from vibe_pipeline.diffusion.models import (
    WanFolder,
    find_model,
    limit_threads,
    load_transformer,
    pick_device,
    token_grid,
    velocity_predictor,
)
from vibe_pipeline.diffusion.objectives import Predict, mixed_loss, velocity_loss
from vibe_pipeline.identity import content_key, folder_fingerprint, read_json, write_atomic, write_json
from vibe_pipeline.images.cache import LatentCache
from vibe_pipeline.training.loop import Job, train_adapter

log = logging.getLogger(__name__)

OnLog = Callable[[list[dict[str, float]]], None]


def stage1_loss(
    predict: Predict, batch: dict[str, Tensor], noise: Tensor, sigma: Tensor, weight: Tensor
) -> dict[str, Tensor]:
    """Velocity loss on low-resolution images."""
    return {"loss": velocity_loss(predict, batch["low"], noise, sigma, weight)}


def stage2_loss(
    predict: Predict, batch: dict[str, Tensor], noise: Tensor, sigma: Tensor, weight: Tensor, row: AdapterParams
) -> dict[str, Tensor]:
    """The row's mix of objectives on high-resolution images."""
    degraded = batch["pixel"] if row.degradation.kind == "pixel" else None
    return mixed_loss(
        row.objective.model_dump(),
        predict,
        batch["high"],
        noise,
        sigma,
        weight,
        row.degradation.factor,
        row.degradation.mode,
        degraded,
    )


def train_stage1(
    name: str, cache: dict[str, Any], model: ModelParams, row: Stage1Params, root: Path, on_log: OnLog
) -> dict[str, Any]:
    """Train D1 on low-resolution images with full attention, or return what an earlier run trained."""
    found = find_model(model.path)
    key = content_key("stage1", folder_fingerprint(found.path), cache["key"], _training_identity(row))
    return _finished(root / f"{name}-{key}") or _train(
        name, key, found, model, row, cache, "low", stage1_loss, root, on_log
    )


def train_stage2(
    name: str,
    cache: dict[str, Any],
    stage1: dict[str, Any] | None,
    model: ModelParams,
    row: AdapterParams,
    root: Path,
    on_log: OnLog,
) -> dict[str, Any]:
    """Fuse D1 (unless the row starts from the original base), freeze it, and train D2 on high resolution."""
    found = find_model(model.path)
    fused = Path(stage1["path"]) if stage1 is not None else None
    key = content_key(
        "stage2",
        folder_fingerprint(found.path),
        cache["key"],
        _training_identity(row),
        stage1["key"] if stage1 else None,
    )
    return _finished(root / f"{name}-{key}") or _train(
        name, key, found, model, row, cache, "high", partial(stage2_loss, row=row), root, on_log, fused
    )


def _training_identity(row: TrainParams) -> dict[str, Any]:
    """What changes the weights; how often to log or save, and what to call it, does not."""
    return row.model_dump(mode="json", exclude={"label", "log_every", "checkpoint_every"})


def _finished(folder: Path) -> dict[str, Any] | None:
    manifest = folder / "manifest.json"
    if not manifest.exists():
        return None
    content = read_json(manifest)
    if not Path(content["path"]).exists():
        return None
    log.info("%s is trained already", folder.name)
    return content | {"reused": True}


def _train(
    name: str,
    key: str,
    found: WanFolder,
    model: ModelParams,
    row: TrainParams,
    cache: dict[str, Any],
    part: str,
    loss: Any,
    root: Path,
    on_log: OnLog,
    fused: Path | None = None,
) -> dict[str, Any]:
    limit_threads(model.threads)
    device, dtype = pick_device(model.device), getattr(torch, model.dtype)
    transformer = load_transformer(found, device, dtype)
    if fused is not None:
        lora.fuse_adapter(transformer, fused)
    lora.add_adapter(transformer, name, row.lora.rank, row.lora.alpha, row.lora.targets, row.seed)
    if isinstance(row, AdapterParams) and row.attention.kind != "full":
        install_gclf(transformer, row.attention, token_grid(found, model.native.height, model.native.width))
    folder = root / f"{name}-{key}"
    job = Job(
        name, transformer, LatentCache(cache), part, loss, row, found.expand_timesteps, device, dtype, folder, on_log
    )
    records = train_adapter(job)
    return _publish(job, key, records, held_out_loss(replace(job, cache=LatentCache(cache, held_out=True))))


def _publish(job: Job, key: str, records: pd.DataFrame, held_out: float) -> dict[str, Any]:
    path = lora.save_adapter(job.transformer, job.name, job.folder)
    write_atomic(job.folder / "losses.csv", lambda p: records.to_csv(p, index=False))
    manifest = {
        "name": job.name,
        "key": key,
        "path": str(path),
        "losses": str(job.folder / "losses.csv"),
        "parameters": job.params.model_dump(mode="json"),
        "final_loss": float(records["loss"].iloc[-1]),
        "held_out_loss": held_out,
        "seconds": float((job.params.batch_size * job.params.log_every / records["images_per_second"]).sum()),
    }
    write_json(job.folder / "manifest.json", manifest)
    (job.folder / "checkpoint.pt").unlink(missing_ok=True)
    return manifest | {"reused": False}


@torch.no_grad()
def held_out_loss(job: Job, sigmas: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8)) -> float:
    """The job's loss on its cache at fixed noise levels and fixed noise, unweighted; comparable between runs."""
    indices = list(range(len(job.cache)))
    batch = {name: job.cache.batch(name, indices).to(job.device) for name in (job.part, "pixel")}
    predict = velocity_predictor(job.transformer, job.cache.batch("text", indices), job.expand_timesteps, job.dtype)
    noise = torch.randn(batch[job.part].shape, generator=torch.Generator().manual_seed(0)).to(job.device)
    ones = torch.ones(len(indices), device=job.device)
    values = [float(job.loss(predict, batch, noise, ones * s, ones)["loss"]) for s in sigmas]
    return sum(values) / len(values)
