"""The jobs of a run, one row each: how often, and the work, time, memory and disk of one."""

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

from vibe_pipeline.diffusion.flow import schedule_steps
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.attention import AttentionParams
from vibe_pipeline.experiment.data import DataParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.experiment.model import ClipSize
from vibe_pipeline.experiment.tables import Experiment
from vibe_pipeline.experiment.training import LoraParams, TrainParams
from vibe_pipeline.generation.methods import method_of
from vibe_pipeline.planning.costs import CONTEXT_BYTES, Costs, Work, stage1_of
from vibe_pipeline.planning.crops import crop_tokens
from vibe_pipeline.planning.measure_costs import measuring_memory, measuring_seconds
from vibe_pipeline.planning.network_costs import network_cost

FULL = AttentionParams()
STAGE1 = "Velocity loss on low-resolution images"


@dataclass(frozen=True, kw_only=True)
class PlanRow:
    """One job of a run.

    Attributes:
        group: `data`, `stage1`, `stage2`, `native`, `arm`, `validation` or `measures`.
        count: How often: images, optimiser steps or clips.
        tokens: Of one sample; None where no transformer runs.
        keys_per_query: Keys that a query of self-attention is compared with, the average over the layers.
        teraflops: Of one piece of the work.
        seconds: Of one piece, at the device's rates.
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
    seconds: float
    memory_gb: float
    disk_gb: float

    @property
    def hours(self) -> float:
        """Hours for all pieces together."""
        return self.count * self.seconds / 3600

    @classmethod
    def of(cls, work: Work, peak: float = 0.0, disk: float = 0.0, **named: Any) -> Self:
        """From the work of one piece, and bytes; `named` are the other fields."""
        return cls(teraflops=work.teraflops, seconds=work.seconds, memory_gb=peak / 1e9, disk_gb=disk / 1e9, **named)


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
    )


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
) -> PlanRow:
    """A stage-1 adapter, or one of `adapters`: its steps at the size that it is trained on."""
    tokens = crop_tokens(costs.architecture, size, row)
    tokens, keys = (costs.keys(size, FULL), costs.keys(size, attention)) if tokens is None else (tokens, tokens)
    work, peak = costs.step(size, attention, row, stage1), costs.step_memory(size, attention, row, stage1)
    disk = 4.0 * costs.adapter_parameters(row.lora)
    return PlanRow.of(
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
    for name, row in tables.stage1.items():
        yield training_row(costs=costs, group="stage1", name=name, label=STAGE1, row=row, size=data.low, attention=FULL)
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
        )


def native_row(costs: Costs, generation: GenerationParams, clips: int) -> PlanRow:
    """The clips that every arm starts from: the base's own, or true renders."""
    size = costs.model.native
    disk = clips * _clip_bytes(size)
    if generation.native_source == "truth":
        return PlanRow.of(
            group="native",
            name="native",
            label="True renders",
            unit="clip",
            count=clips,
            work=Work(),
            disk=disk,
        )
    passes = generation.native_steps * _passes(generation.native_guidance_scale)
    work = costs.text() + costs.forward(size, FULL) * passes + costs.decode(size)
    peak = _rendering_memory(costs, size, costs.forward_memory(size, generation.batch_size, FULL), 0.0, False)
    tokens = costs.keys(size, FULL)
    return PlanRow.of(
        group="native",
        name="native",
        label="Native clips, shared by all arms",
        unit="clip",
        count=clips,
        tokens=tokens,
        keys_per_query=tokens,
        work=work,
        peak=peak,
        disk=disk,
    )


def arm_row(
    costs: Costs, name: str, arm: ArmParams, tables: Experiment, generation: GenerationParams, clips: int
) -> PlanRow:
    """An arm's clips, by the workload of its method."""
    size, method = costs.model.target, method_of(arm)
    disk, steps = clips * _clip_bytes(size), schedule_steps(arm.steps, method.strength(arm), arm.strength_mode)
    load = method.workload(arm, steps)
    work = costs.encode(size) * load.encodes + costs.decode(size) * load.decodes
    work += costs.encode(costs.model.native) * load.native_encodes
    if not load.forwards:
        peak = _vae_peak(costs, size) + CONTEXT_BYTES if load.encodes or load.decodes else 0.0
        if load.network is not None and (found := network_cost(costs, load.network)):
            work, peak = work + found.work, CONTEXT_BYTES + found.memory
        return PlanRow.of(
            group="arm",
            name=name,
            label=arm.label,
            unit="clip",
            count=clips,
            work=work,
            peak=peak,
            disk=disk,
        )
    adapters = costs.arm_adapters(arm, tables)
    for attention, times in load.forwards:
        work += costs.forward(size, attention, adapters) * times
    for height, width, attention, times in load.earlier:
        smaller = size.model_copy(update={"height": height, "width": width})
        work += costs.forward(smaller, attention, adapters) * times
    tokens, keys = costs.keys(size, FULL), costs.keys(size, arm.attention)
    extra = sum(map(costs.adapter_bytes, adapters))
    if load.keeps_cross_attention and not costs.model.offload:
        config = costs.architecture.transformer
        width = config["num_attention_heads"] * config["attention_head_dim"]
        extra += generation.batch_size * config["num_layers"] * tokens * width * costs.number_bytes
    batch = generation.batch_size * load.copies
    forward = max(costs.forward_memory(size, batch, attention, arm.rope) for attention, _ in load.forwards)
    peak = _rendering_memory(costs, size, forward, extra, load.encodes > 0)
    return PlanRow.of(
        group="arm",
        name=name,
        label=arm.label,
        unit="clip",
        count=clips,
        tokens=tokens,
        keys_per_query=keys,
        work=work,
        peak=peak,
        disk=disk,
    )


def arm_rows(costs: Costs, tables: Experiment, generation: GenerationParams, clips: int) -> Iterator[PlanRow]:
    """Every arm."""
    for name, arm in tables.arms.items():
        try:
            yield arm_row(costs=costs, name=name, arm=arm, tables=tables, generation=generation, clips=clips)
        except ValueError as error:
            raise ValueError(f"arms.{name}: {error}") from None


def validation_rows(costs: Costs, tables: Experiment, generation: GenerationParams) -> Iterator[PlanRow]:
    """Clips while adapters train, each as the adapter's first arm makes it; memory is that of the arm."""
    for name, row in tables.adapters.items():
        if row.validation_clips and row.validate_every:
            arm, times = tables.arms[tables.arm_of(name)], -(-row.steps // row.validate_every)
            made = arm_row(
                costs=costs,
                name=name,
                arm=arm,
                tables=tables,
                generation=generation,
                clips=row.validation_clips * times,
            )
            yield replace(made, group="validation", label=f"Validation clips, {times} times {row.validation_clips}")


def measures_row(size: ClipSize, clips: int, extra: Collection[str] = ()) -> tuple[PlanRow, str]:
    """Our own measures of every arm's clips, on processors while the device idles, and what that rests on."""
    cores = os.cpu_count() or 1
    work = Work(0.0, measuring_seconds(size, cores, extra))
    memory = measuring_memory(size, extra) / 1e9
    note = f"our measures: on the {cores} cores of this machine, an arm at a time; {memory:.1f} GB of main memory"
    return PlanRow.of(
        group="measures",
        name="all",
        label="Our measures, on processors",
        unit="clip",
        count=clips,
        work=work,
    ), note


def network_measures_row(costs: Costs, clips: int, extra: Collection[str]) -> Iterator[PlanRow]:
    """Networks of the measures that are asked for by name, on the device; nothing where none is."""
    if (work := costs.networks(costs.model.target, extra)).teraflops:
        yield PlanRow.of(
            work, group="measures", name="networks", label="Measures by networks", unit="clip", count=clips
        )


def _passes(guidance_scale: float) -> int:
    return 1 if guidance_scale == 1 else 2


def _rendering_memory(costs: Costs, size: ClipSize, forward: float, extra: float, encodes: bool) -> float:
    """Text encoder alone; then transformer, whose forward takes `forward` bytes, and VAE together, or in turns."""
    denoising = costs.weights("transformer") + extra + forward
    # Clips are decoded one at a time.
    working = max(costs.vae_memory(size, True), costs.vae_memory(size, False) if encodes else 0.0)
    if costs.model.offload:
        together = max(denoising, costs.weights("vae") + working)
    else:
        both = costs.weights("transformer") + extra + costs.weights("vae")
        together = both + max(forward, working)
    return max(costs.text_memory(), CONTEXT_BYTES + together)


def _vae_peak(costs: Costs, size: ClipSize) -> float:
    return costs.weights("vae") + max(costs.vae_memory(size, True), costs.vae_memory(size, False))


def _clip_bytes(size: ClipSize) -> float:
    """8-bit RGB as it is; lossless H.264 is smaller, by how much depends on the content."""
    return 3.0 * size.frames * size.height * size.width
