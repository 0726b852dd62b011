"""The jobs of a run, one row each: how often, and the work, time, memory and disk of one."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from vibe_pipeline.experiment.attention import AttentionParams
from vibe_pipeline.experiment.data import DataParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.experiment.model import ClipSize
from vibe_pipeline.experiment.tables import Experiment
from vibe_pipeline.experiment.training import LoraParams, TrainParams
from vibe_pipeline.generation.methods import method_of
from vibe_pipeline.images.buckets import make_buckets
from vibe_pipeline.planning.block_loads import block_waits, weights_there
from vibe_pipeline.planning.costs import CONTEXT_BYTES, Costs
from vibe_pipeline.planning.counts import stage1_of
from vibe_pipeline.planning.crops import crop_tokens, images_of_sequence
from vibe_pipeline.planning.expert_loads import moving, native_passes, waiting_on_device
from vibe_pipeline.planning.stills_filter import fitting_seconds
from vibe_pipeline.planning.work import Work

FULL = AttentionParams()
FILTER = "linear filter"
STAGE1 = "Velocity loss on low-resolution images"
TRAINING = ("data", "stage1", "stage2", "validation", "held_out")
"""The groups of rows that data_processing and both stages are, without the clips of arms."""


@dataclass(frozen=True, kw_only=True)
class PlanRow:
    """One job of a run.

    Attributes:
        group: `data`, `stage1`, `stage2`, `native`, `arm`, `validation`, `held_out`, `vbench` or `measures`.
        count: How often: images, optimiser steps or clips.
        tokens: Of one sample, or of one packed sequence; None where no transformer runs.
        keys_per_query: Keys that a query of self-attention is compared with, the average over the layers.
        teraflops: Of one piece of the work.
        parts: Seconds of one piece, by what spends them.
        once: Seconds before the first piece, likewise.
        memory_gb: Peak on the device.
        disk_gb: What all pieces leave on disk.
    """

    group: str
    name: str
    label: str
    unit: str
    count: int
    tokens: int | None = None
    keys_per_query: float | None = None
    teraflops: float
    parts: Mapping[str, float]
    once: Mapping[str, float] = field(default_factory=dict)
    memory_gb: float
    disk_gb: float

    @property
    def seconds(self) -> float:
        """Of one piece."""
        return sum(self.parts.values())

    @property
    def hours(self) -> float:
        """Hours for all pieces together."""
        return sum(self.hours_by_part.values())

    @property
    def hours_by_part(self) -> dict[str, float]:
        """The same, by what spends them."""
        pieces = Work(parts=self.parts) * self.count + Work(parts=self.once)
        return {name: seconds / 3600 for name, seconds in pieces.parts.items()}

    @classmethod
    def of(cls, work: Work, peak: float = 0.0, disk: float = 0.0, once: Work | None = None, **named: Any) -> Self:
        """From the work of one piece and that before the first, and bytes; `named` are the other fields."""
        before = {} if once is None else once.parts
        return cls(
            teraflops=work.teraflops,
            parts=work.parts,
            once=before,
            memory_gb=peak / 1e9,
            disk_gb=disk / 1e9,
            **named,
        )


def data_row(costs: Costs, data: DataParams, count: int) -> PlanRow:
    """Captions and latents of every image: low, high, and high after each pixel degradation."""
    large = 2 + (data.pixel_draws.count if data.pixel_draws else 0)
    work = costs.text() + costs.encode(data.low) + costs.encode(data.high) * large
    encoding = costs.weights("vae") + data.encode_batch * costs.vae_memory(data.high, decode=False)
    numbers = sum(_numbers(costs, size) for size in (data.low, *large * (data.high,)))
    text = costs.model.text_length * costs.architecture.transformer["text_dim"]
    size = 2 * numbers + costs.number_bytes * text
    peak = max(costs.text_memory(), CONTEXT_BYTES + encoding)
    return PlanRow.of(
        group="data",
        name="cache",
        label="Latents and text embeddings",
        unit="image",
        count=count,
        work=work,
        peak=peak,
        disk=count * size,
        once=costs.load("text_encoder", "vae"),
    )


def filter_row(data: DataParams, stills: int) -> PlanRow:
    """The linear filter of stage 2's stills, fitted once, on a processor."""
    work = Work(parts={FILTER: fitting_seconds(data)})
    label = "Linear filter of the stills, on a processor"
    return PlanRow.of(work, group="data", name="linear_filter", label=label, unit="image", count=stills)


def _numbers(costs: Costs, size: ClipSize) -> int:
    channels, frames, height, width = costs.architecture.latent(size)
    return channels * frames * height * width


def training_row(
    costs: Costs,
    group: str,
    name: str,
    label: str,
    row: TrainParams,
    size: ClipSize,
    attention: AttentionParams,
    stage1: LoraParams | None = None,
    shapes: int = 1,
) -> PlanRow:
    """A stage-1 adapter, or one of `adapters`: its steps at the size that it is trained on, one of so many `shapes`."""
    cropped = crop_tokens(costs.architecture, size, row)
    tokens, keys = (costs.keys(size, FULL), costs.keys(size, attention)) if cropped is None else (cropped, cropped)
    tokens *= images_of_sequence(costs.architecture, size, row)
    work, peak = costs.step(size, attention, row, stage1), costs.step_memory(size, attention, row, stage1)
    disk = 4.0 * costs.adapter_parameters(row.lora)
    once = costs.load("transformer") + costs.compiling(size, attention, row.compile, shapes)
    if cropped is None:
        peak += costs.masks(size, attention) * shapes
    return PlanRow.of(
        once=once,
        group=group,
        name=name,
        label=label,
        unit="step",
        count=row.steps,
        tokens=tokens,
        keys_per_query=keys,
        work=work,
        peak=peak,
        disk=disk,
    )


def training_rows(costs: Costs, data: DataParams, tables: Experiment) -> Iterator[PlanRow]:
    """Every stage-1 adapter on low-resolution images, then every adapter of stage 2 on high-resolution ones."""
    low, high = shapes_of(costs, data)
    for name, row in tables.stage1.items():
        yield training_row(
            costs=costs,
            group="stage1",
            name=name,
            label=STAGE1,
            row=row,
            size=data.low,
            attention=FULL,
            shapes=low,
        )
    for name, adapter in tables.adapters.items():
        yield training_row(
            costs=costs,
            group="stage2",
            name=name,
            label=adapter.label,
            row=adapter,
            size=data.high,
            attention=adapter.attention,
            stage1=stage1_of(adapter, tables),
            shapes=1 if adapter.crop is not None else high,
        )


def shapes_of(costs: Costs, data: DataParams) -> tuple[int, int]:
    """How many sizes the images of stage 1 and of stage 2 have at most.

    Raises:
        ValueError: A size that fits neither the model nor the buckets; the message names the parameter.
    """
    buckets, most = make_buckets(costs.architecture, costs.model.native, data), data.count or math.inf
    low, high = (len({getattr(bucket, which) for bucket in buckets}) for which in ("low", "high"))
    return int(min(low, most)), int(min(high, most))


def native_row(costs: Costs, generation: GenerationParams, clips: int) -> PlanRow:
    """The clips that every arm starts from: the base's own, or true renders."""
    size = costs.model.native
    disk = clips * clip_bytes(size)
    if generation.native_source == "truth":
        return PlanRow.of(
            group="native",
            name="native",
            label="True renders",
            unit="clip",
            count=clips,
            work=costs.write(size, beside=0.0),
            disk=disk,
        )
    passes, batch = native_passes(costs, generation), generation.batch_size
    forward = costs.forward(size, FULL, compiled=costs.model.compile)
    work = costs.text() + forward * sum(passes.values()) + costs.decode(size)
    asked = [part for part, times in passes.items() if times]
    work += moving(costs, asked, 1, batch)
    for times in passes.values():
        work += block_waits(costs, forward.seconds * times, times, times, batch)
    work += costs.write(size, beside=work.seconds)
    peak = rendering_memory(costs, size, costs.forward_memory(size, batch, FULL), weights_there(costs), False)
    tokens = costs.keys(size, FULL)
    return PlanRow.of(
        group="native",
        name="native",
        label="Native clips, shared by all arms",
        unit="clip",
        count=clips,
        once=costs.load("text_encoder", *passes, "vae") + costs.compiling(size, FULL, costs.model.compile),
        tokens=tokens,
        keys_per_query=tokens,
        work=work,
        peak=peak,
        disk=disk,
    )


def latents_row(costs: Costs, tables: Experiment, clips: int) -> Iterator[PlanRow]:
    """Native clips enlarged and encoded, once for all arms that start from them; nothing where none does."""
    loads = [method_of(arm).workload(arm, 1) for arm in tables.arms.values()]
    size, native = costs.model.target, costs.model.native
    work = costs.encode(size) * any(load.encodes for load in loads)
    work += costs.encode(native) * any(load.native_encodes for load in loads)
    if work.teraflops:
        ways = sum(any(getattr(load, n) for load in loads) for n in ("encodes", "native_encodes"))
        peak = costs.weights("vae") + costs.vae_memory(size, decode=False) + CONTEXT_BYTES
        yield PlanRow.of(
            work,
            peak,
            disk=4.0 * ways * clips * _numbers(costs, size),
            group="native",
            name="latents",
            label="Native clips enlarged and encoded, once for all arms",
            unit="clip",
            count=clips,
        )


def rendering_memory(costs: Costs, size: ClipSize, forward: float, transformer: float, encodes: bool) -> float:
    """Text encoder alone; then transformer, with what lies on it or is kept, and VAE together, or in turns.

    `forward` are the bytes that one takes, `transformer` those that are there before.
    """
    transformer += waiting_on_device(costs)
    # Clips are decoded one at a time.
    working = max(costs.vae_memory(size, True), costs.vae_memory(size, False) if encodes else 0.0)
    if costs.model.offload:
        together = max(transformer + forward, costs.weights("vae") + working)
    else:
        together = transformer + costs.weights("vae") + max(forward, working)
    return max(costs.text_memory(), CONTEXT_BYTES + together)


def vae_peak(costs: Costs, size: ClipSize) -> float:
    """Bytes of encoding or decoding a clip, nothing else being there."""
    return costs.weights("vae") + max(costs.vae_memory(size, True), costs.vae_memory(size, False))


def clip_bytes(size: ClipSize) -> float:
    """8-bit RGB as it is; lossless H.264 is smaller, by how much depends on the content."""
    return 3.0 * size.frames * size.height * size.width
