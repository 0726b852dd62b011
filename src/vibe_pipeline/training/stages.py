"""The two stages of Relay LoRA: what each trains, on what, with which loss; then one training for both."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from diffusers import WanTransformer3DModel
from filelock import FileLock
from pydantic import ValidationError

from vibe_pipeline.diffusion import lora
from vibe_pipeline.diffusion.attention import install_gclf
from vibe_pipeline.diffusion.crops import TokenCrop
from vibe_pipeline.diffusion.lifetime import released
from vibe_pipeline.diffusion.models import (
    WanCheckpoint,
    find_model,
    load_transformer,
    pick_device,
    settle_torch,
    token_grid,
)
from vibe_pipeline.diffusion.packing import install_packing
from vibe_pipeline.experiment.adapters import AdapterParams
from vibe_pipeline.experiment.attention import AttentionParams
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.experiment.training import Stage1Params, TrainParams
from vibe_pipeline.images.cache import LatentCache
from vibe_pipeline.io.files import link_by_name, read_json, write_atomic, write_json
from vibe_pipeline.io.keys import content_key, folder_fingerprint
from vibe_pipeline.io.manifests import AdapterManifest
from vibe_pipeline.runtime.torchrun import launched_outside
from vibe_pipeline.training.checkpoint import remove_checkpoints
from vibe_pipeline.training.distributed import Group, OnLog, join_group, no_log, run_processes
from vibe_pipeline.training.job import StageLoss, TrainingJob
from vibe_pipeline.training.loop import train_adapter
from vibe_pipeline.training.validation import held_out_loss

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
STAGE1_LOSS = StageLoss("low", {"velocity": 1.0})


def stage1_job(name: str, cache: Mapping[str, Any], model: ModelParams, row: Stage1Params, root: Path) -> TrainingJob:
    """D1, the image modality: low-resolution images, velocity loss, full attention.

    Args:
        name: The row's.
        cache: The latent cache's manifest.
        model: The base model.
        row: How to train.
        root: Gets a folder named by what determines the adapter.
    """
    key = _key("stage1", cache, model, row)
    ground = _ground(cache, model)
    return TrainingJob(name=name, key=key, folder=root / f"stage1-{key}", row=row, loss=STAGE1_LOSS, **ground)


def stage2_job(
    name: str,
    cache: Mapping[str, Any],
    stage1: AdapterManifest | None,
    model: ModelParams,
    row: AdapterParams,
    root: Path,
) -> TrainingJob:
    """D2, high resolution: the row's objective and attention, on the base with D1 fused and frozen.

    `stage1` is D1; None trains on the original base. The rest is as in :func:`stage1_job`.
    """
    before = lora.fused_key(stage1.key, getattr(torch, model.dtype), model.quantisation is not None) if stage1 else None
    key = _key("stage2", cache, model, row, before)
    return TrainingJob(
        name=name,
        key=key,
        folder=root / f"stage2-{key}",
        row=row,
        loss=StageLoss("high", row.objective, row.degradation, row.bridge, _crop(model, row)),
        fused=stage1.path if stage1 else None,
        **_ground(cache, model),
    )


def _crop(model: ModelParams, row: AdapterParams) -> TokenCrop | None:
    """A row's crop in tokens of the model."""
    if row.crop is None:
        return None
    checkpoint = find_model(model.path)
    patch = checkpoint.config_of("transformer")["patch_size"]
    return TokenCrop(token_grid(checkpoint, row.crop.height, row.crop.width), row.crop.pool, tuple(patch[1:]))


def _ground(cache: Mapping[str, Any], model: ModelParams) -> dict[str, Any]:
    """Fields of a job that both stages fill in alike."""
    checkpoint = find_model(model.path)
    return {
        "model": model,
        "expand_timesteps": checkpoint.expand_timesteps,
        "boundary": checkpoint.boundary,
        "images": LatentCache(cache),
        "held_out": LatentCache(cache, held_out=True),
    }


def _key(stage: str, cache: Mapping[str, Any], model: ModelParams, row: TrainParams, *before: str | None) -> str:
    """Hash of what changes the weights beyond float rounding; no names: what `start` names has a key of its own."""
    watching = {"label", "start", "log_every", "checkpoint_every", "validate_every", "validation_clips"}
    dividing = {"processes", "micro_batch", "gradient_checkpointing", "compile"}
    settings = row.model_dump(mode="json", exclude=watching | dividing)
    if model.quantisation is not None:  # it came later: older adapters count where it is off
        before = (*before, f"quantised: {model.quantisation}")
    return content_key(stage, folder_fingerprint(find_model(model.path).path), cache["key"], settings, *before)


@contextmanager
def alone(job: TrainingJob) -> Iterator[None]:
    """Keep rows of equal content apart: the second waits, and finds what the first has trained.

    The processes of one torchrun enter together. A link by the row's name shows people where its adapter is.
    """
    if launched_outside():
        yield
        return
    job.folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(job.folder.with_name(f".{job.folder.name}.lock")):
        yield
    link_by_name(job.folder.parent / "by_name" / job.name, job.folder)


def train(job: TrainingJob, on_log: OnLog) -> AdapterManifest:
    """Train the adapter of either stage, or return what an earlier run trained.

    In this process, in new ones, or as one of those that torchrun or accelerate started.

    Args:
        job: Of :func:`stage1_job` or :func:`stage2_job`.
        on_log: Gets log lines as they come, in this process.
    """
    if (finished := _finished(job)) is not None:
        return finished
    settle_torch(job.model.threads, job.model.deterministic)
    device = pick_device(job.model.device)
    if launched_outside():
        group = join_group(device)
        work(group, on_log if group.leads else no_log, job)
    elif job.row.processes > 1:
        run_processes(work, (job,), job.row.processes, device, on_log)
    else:
        work(Group(device=device), on_log, job)
    return AdapterManifest.read(job.folder / MANIFEST)


def _finished(job: TrainingJob) -> AdapterManifest | None:
    """What is there already, under the asking row's name."""
    file = job.folder / MANIFEST
    if not file.exists():
        return None
    try:
        manifest = AdapterManifest.model_validate(read_json(file))
    except ValidationError:
        manifest = None
    if manifest is None or not manifest.trained:
        log.warning("%s is not the manifest of a trained adapter; it is trained again", file)
        return None
    if not manifest.path.exists():
        return None
    log.info("%s is trained already", job.name)
    return manifest.model_copy(update={"name": job.name, "reused": True})


def work(group: Group, on_log: OnLog, job: TrainingJob) -> None:
    """Train and measure as one process of a group; the first writes the adapter and its manifest."""
    settle_torch(job.model.threads, job.model.deterministic)
    checkpoint = find_model(job.model.path)
    with released(_base(checkpoint, group, job)) as transformer:
        _equip(transformer, checkpoint, job)
        records = train_adapter(job, transformer, group, on_log)
        held_out = held_out_loss(job, transformer, group)
        if group.leads:
            _publish(job, transformer, records, held_out)
        group.wait()


def _base(checkpoint: WanCheckpoint, group: Group, job: TrainingJob) -> WanTransformer3DModel:
    return load_transformer(checkpoint, group.device, job.dtype, quantisation=job.model.quantisation)


def _equip(transformer: WanTransformer3DModel, checkpoint: WanCheckpoint, job: TrainingJob) -> None:
    """Stage 1, the adapter to be trained, and the attention that it is trained with."""
    row, native = job.row, job.model.native
    if job.fused is not None:
        lora.fuse_adapter(transformer, job.fused)
    lora.add_adapter(
        transformer=transformer,
        name=job.name,
        rank=row.lora.rank,
        alpha=row.lora.alpha,
        targets=row.lora.targets,
        seed=row.seed,
    )
    packed, grid = row.packing is not None, token_grid(checkpoint, native.height, native.width)
    if packed or isinstance(row, AdapterParams):
        attention = row.attention if isinstance(row, AdapterParams) else AttentionParams()
        install_gclf(transformer, attention, grid, always=packed)
    if packed:
        install_packing(transformer)


def _publish(job: TrainingJob, transformer: WanTransformer3DModel, records: pd.DataFrame, held_out: float) -> None:
    path, losses = lora.save_adapter(transformer, job.name, job.folder), job.folder / "losses.csv"
    write_atomic(losses, lambda p: records.to_csv(p, index=False))
    manifest = AdapterManifest(
        name=job.name,
        key=job.key,
        path=path,
        losses=losses,
        parameters=job.row.model_dump(mode="json"),
        final_loss=float(records["loss"].iloc[-1]),
        held_out_loss=held_out,
        seconds=float(records["seconds"].sum()),
        part=find_model(job.model.path).experts[-1],
    )
    write_json(job.folder / MANIFEST, manifest.model_dump(mode="json"))
    remove_checkpoints(job.folder)
