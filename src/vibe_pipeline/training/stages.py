"""The two stages of Relay LoRA: what each trains, on what, with which loss."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from diffusers import WanTransformer3DModel
from filelock import FileLock
from torch import Tensor

from vibe_pipeline.diffusion import lora
from vibe_pipeline.diffusion.attention import install_gclf
from vibe_pipeline.diffusion.lifetime import released
from vibe_pipeline.diffusion.models import (
    WanCheckpoint,
    find_model,
    limit_threads,
    load_transformer,
    pick_device,
    token_grid,
)
from vibe_pipeline.diffusion.objectives import Predict, Sample, degrade, degrades, mixed_loss
from vibe_pipeline.experiment.adapters import AdapterParams, DegradationParams
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.experiment.training import Stage1Params, TrainParams
from vibe_pipeline.images.cache import LatentCache
from vibe_pipeline.io.files import link_by_name, read_json, write_atomic, write_json
from vibe_pipeline.io.keys import content_key, folder_fingerprint
from vibe_pipeline.runtime.torchrun import launched_outside
from vibe_pipeline.training.checkpoint import remove_checkpoints
from vibe_pipeline.training.distributed import Group, join_group
from vibe_pipeline.training.job import Job, Loss, OnLog, OnValidate, no_log
from vibe_pipeline.training.launch import run_processes
from vibe_pipeline.training.loop import train_adapter
from vibe_pipeline.training.validation import held_out_loss

log = logging.getLogger(__name__)

NEEDED = frozenset({"name", "key", "path", "losses", "held_out_loss"})  # of a manifest that is read again


@dataclass(frozen=True)
class StageLoss:
    """The loss of a stage, on one of the cached latents; can be sent to other processes.

    Attributes:
        part: Which latents are learned: `low` or `high`.
        objective: Weights of `diffusion.objectives.OBJECTIVES`.
        degradation: How the degraded latent is made, where an objective reads it.
    """

    part: str
    objective: Mapping[str, float]
    degradation: DegradationParams = field(default_factory=DegradationParams)

    @property
    def extra_parts(self) -> tuple[str, ...]:
        """Cached latents that are needed beside `part`."""
        return ("pixel",) if degrades(self.objective) and self.degradation.kind == "pixel" else ()

    def __call__(
        self, predict: Predict, batch: dict[str, Tensor], noise: Tensor, sigma: Tensor, weight: Tensor
    ) -> dict[str, Tensor]:
        """Named losses, `loss` among them."""
        sample = Sample(x0=batch[self.part], noise=noise, sigma=sigma, weight=weight, degraded=self._degraded(batch))
        return mixed_loss(self.objective, predict, sample)

    def _degraded(self, batch: dict[str, Tensor]) -> Tensor | None:
        if not degrades(self.objective):
            return None
        if self.degradation.kind == "pixel":
            return batch["pixel"]
        return degrade(batch[self.part], self.degradation.factor, self.degradation.mode)


STAGE1_LOSS = StageLoss("low", {"velocity": 1.0})


def stage1_folder(cache: dict[str, Any], model: ModelParams, row: Stage1Params, root: Path) -> Path:
    """Where D1 is trained and kept: named by what determines it, not by its row."""
    fingerprint = folder_fingerprint(find_model(model.path).path)
    return root / f"stage1-{content_key('stage1', fingerprint, cache['key'], _training_identity(row))}"


def stage2_folder(
    cache: dict[str, Any], stage1: dict[str, Any] | None, model: ModelParams, row: AdapterParams, root: Path
) -> Path:
    """Where D2 is trained and kept: named by what determines it, not by its row."""
    fingerprint = folder_fingerprint(find_model(model.path).path)
    before = lora.fused_key(stage1["key"], getattr(torch, model.dtype)) if stage1 else None
    return root / f"stage2-{content_key('stage2', fingerprint, cache['key'], _training_identity(row), before)}"


@contextmanager
def alone(name: str, folder: Path) -> Iterator[None]:
    """Keep rows of equal content apart: the second waits, and finds what the first has trained.

    The processes of one torchrun enter together. A link by the row's name shows people where its adapter is.
    """
    if launched_outside():
        yield
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        yield
    link_by_name(folder.parent / "by_name" / name, folder)


def train_stage1(
    name: str,
    cache: dict[str, Any],
    model: ModelParams,
    row: Stage1Params,
    root: Path,
    on_log: OnLog,
    on_validate: OnValidate | None = None,
) -> dict[str, Any]:
    """Train D1 on low-resolution images with full attention, or return what an earlier run trained.

    Args:
        name: The row's.
        cache: The latent cache's manifest.
        model: The base model.
        row: How to train.
        root: Gets a folder named by what determines the adapter.
        on_log: Gets log lines as they come, in this process.
        on_validate: Called every `validate_every` steps; must be picklable where there are several processes.

    Returns:
        A manifest: name, key, path, losses (a CSV file), parameters, final_loss, held_out_loss, seconds, reused.
    """
    folder = stage1_folder(cache, model, row, root)
    task = Task(
        name=name,
        key=folder.name.partition("-")[2],
        model=model,
        row=row,
        cache=cache,
        parts=("low",),
        loss=STAGE1_LOSS,
        folder=folder,
        fused=None,
        on_validate=on_validate,
    )
    return _finished(name, folder) or _train(task, on_log)


def train_stage2(
    name: str,
    cache: dict[str, Any],
    stage1: dict[str, Any] | None,
    model: ModelParams,
    row: AdapterParams,
    root: Path,
    on_log: OnLog,
    on_validate: OnValidate | None = None,
) -> dict[str, Any]:
    """Fuse D1 (unless the row starts from the original base), freeze it, and train D2 on high resolution.

    `stage1` is the manifest of D1; the rest is as in :func:`train_stage1`.
    """
    fused = Path(stage1["path"]) if stage1 is not None else None
    folder = stage2_folder(cache, stage1, model, row, root)
    loss = StageLoss("high", row.objective, row.degradation)
    task = Task(
        name=name,
        key=folder.name.partition("-")[2],
        model=model,
        row=row,
        cache=cache,
        parts=("high", *loss.extra_parts),
        loss=loss,
        folder=folder,
        fused=fused,
        on_validate=on_validate,
    )
    return _finished(name, folder) or _train(task, on_log)


def _training_identity(row: TrainParams) -> dict[str, Any]:
    """Fields that change the weights beyond float rounding; no names: what `start` names has a key of its own."""
    watching = {"label", "start", "log_every", "checkpoint_every", "validate_every", "validation_clips"}
    dividing = {"processes", "micro_batch", "gradient_checkpointing", "compile"}
    return row.model_dump(mode="json", exclude=watching | dividing)


def _finished(name: str, folder: Path) -> dict[str, Any] | None:
    """What is there already, under the asking row's name."""
    manifest = folder / "manifest.json"
    if not manifest.exists():
        return None
    content = read_json(manifest)
    if not isinstance(content, dict) or not content.keys() >= NEEDED:
        log.warning("%s is not the manifest of an adapter; it is trained again", manifest)
        return None
    if not Path(content["path"]).exists():
        return None
    log.info("%s is trained already, in %s", name, folder)
    return content | {"name": name, "reused": True}


@dataclass(frozen=True, kw_only=True)
class Task:
    """One adapter to train: paths and parameters alone, so that it can be sent to other processes.

    Attributes:
        cache: The latent cache's manifest.
        parts: Cached latents to train on, and those the loss needs beside them.
        fused: A stage-1 adapter to merge into the base first.
    """

    name: str
    key: str
    model: ModelParams
    row: TrainParams
    cache: dict[str, Any]
    parts: tuple[str, ...]
    loss: Loss
    folder: Path
    fused: Path | None = None
    on_validate: OnValidate | None = None


def _train(task: Task, on_log: OnLog) -> dict[str, Any]:
    """Train in this process, in new ones, or as one of those that torchrun or accelerate started."""
    limit_threads(task.model.threads)
    device = pick_device(task.model.device)
    if launched_outside():
        group, device = join_group(device)
        work(group, device, on_log if group.leads else no_log, task)
    elif task.row.processes > 1:
        run_processes(work, (task,), task.row.processes, device, on_log)
    else:
        work(Group(), device, on_log, task)
    return read_json(task.folder / "manifest.json") | {"reused": False}


def work(group: Group, device: torch.device, on_log: OnLog, task: Task) -> None:
    """Train and measure as one process of a group; the first writes the adapter and its manifest."""
    limit_threads(task.model.threads)
    checkpoint, dtype = find_model(task.model.path), getattr(torch, task.model.dtype)
    with released(load_transformer(checkpoint, device, dtype)) as transformer:
        _equip(transformer, checkpoint, task)
        job = _job(transformer, task, group, device, on_log)
        records = train_adapter(job)
        held_out = held_out_loss(replace(job, cache=job.held_out))
        if group.leads:
            _publish(job, task.key, records, held_out)
        group.wait()


def _equip(transformer: WanTransformer3DModel, checkpoint: WanCheckpoint, task: Task) -> None:
    """Stage 1, the adapter to be trained, and the attention that it is trained with."""
    row, native = task.row, task.model.native
    if task.fused is not None:
        lora.fuse_adapter(transformer, task.fused)
    lora.add_adapter(
        transformer=transformer,
        name=task.name,
        rank=row.lora.rank,
        alpha=row.lora.alpha,
        targets=row.lora.targets,
        seed=row.seed,
    )
    if isinstance(row, AdapterParams):
        install_gclf(transformer, row.attention, token_grid(checkpoint, native.height, native.width))


def _job(transformer: WanTransformer3DModel, task: Task, group: Group, device: torch.device, on_log: OnLog) -> Job:
    return Job(
        name=task.name,
        transformer=transformer,
        cache=LatentCache(task.cache),
        part=task.parts[0],
        loss=task.loss,
        params=task.row,
        expand_timesteps=find_model(task.model.path).expand_timesteps,
        device=device,
        dtype=getattr(torch, task.model.dtype),
        folder=task.folder,
        on_log=on_log,
        held_out=LatentCache(task.cache, held_out=True),
        on_validate=task.on_validate,
        group=group,
        extra_parts=task.parts[1:],
    )


def _publish(job: Job, key: str, records: pd.DataFrame, held_out: float) -> None:
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
        "seconds": float(records["seconds"].sum()),
    }
    write_json(job.folder / "manifest.json", manifest)
    remove_checkpoints(job.folder)
