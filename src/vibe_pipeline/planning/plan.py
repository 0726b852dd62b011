"""What a run will cost, from its parameters alone: work, time, memory and disk of every stage, adapter and arm.

Time is operations over an assumed share of the device's dense peak; a window or pooled attention is counted at the
keys that each query sees, which block-sparse kernels exceed a little. Not counted: reading and writing files, held-out
losses, VBench.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from vibe_pipeline.diffusion.checkpoint import tile_stride
from vibe_pipeline.diffusion.flow import schedule_steps
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.attention import AttentionParams
from vibe_pipeline.experiment.data import DataParams
from vibe_pipeline.experiment.evaluation import EvaluationParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.experiment.model import ClipSize, ModelParams
from vibe_pipeline.experiment.tables import Tables
from vibe_pipeline.experiment.training import LoraParams, TrainParams
from vibe_pipeline.generation.methods import checked_tables, method_of
from vibe_pipeline.generation.prompts import load_prompts
from vibe_pipeline.images.find import find_images
from vibe_pipeline.planning.architecture import load_architecture
from vibe_pipeline.planning.costs import CONTEXT_BYTES, Costs, Work, measuring, measuring_memory, stage1_of
from vibe_pipeline.planning.devices import find_device
from vibe_pipeline.planning.figures import NOTHING_KEPT, Figures
from vibe_pipeline.vbench.prompts import clips_per_dimension

FULL = AttentionParams(kind="full")
STAGE1 = "Velocity loss on low-resolution images"


@dataclass(frozen=True)
class Row:
    """One job of a run.

    Attributes:
        group: `data`, `stage1`, `stage2`, `native`, `arm`, `validation` or `measures`.
        count: How often: images, optimiser steps or clips.
        tokens: Of one sample; None where no transformer runs.
        keys_per_query: Of self-attention.
        teraflops: Of one.
        seconds: Of one.
        memory_gb: Peak on the device.
        disk_gb: Of all.
    """

    group: str
    name: str
    label: str
    unit: str
    count: int
    tokens: int | None
    keys_per_query: int | None
    teraflops: float
    seconds: float
    memory_gb: float
    disk_gb: float

    @property
    def hours(self) -> float:
        """Of all."""
        return self.count * self.seconds / 3600


@dataclass(frozen=True)
class Plan:
    """The jobs, and what they were computed for."""

    model: str
    architecture: str
    parameters: dict[str, int]
    weights_gb: float
    device: str
    device_memory_gb: float
    share_of_peak: float
    notes: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def hours(self) -> float:
        """All jobs one after another."""
        return sum(row.hours for row in self.rows)

    @property
    def peak_memory_gb(self) -> float:
        """Of the largest job."""
        return max(row.memory_gb for row in self.rows)

    @property
    def disk_gb(self) -> float:
        """Written by the run; weights not included."""
        return sum(row.disk_gb for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        totals = {"hours": self.hours, "peak_memory_gb": self.peak_memory_gb, "disk_gb": self.disk_gb}
        rows = [asdict(row) | {"hours": row.hours} for row in self.rows]
        return asdict(self) | {"rows": rows, "totals": totals}


def make_plan(
    params: Mapping[str, Any],
    device: str = "h100",
    share: float = 0.5,
    images: int | None = None,
    figures: Figures = NOTHING_KEPT,
) -> Plan:
    """Plan a run.

    Args:
        params: The parameters of an environment.
        device: A name in `planning.devices`.
        share: Of the device's peak that is assumed.
        images: How many there will be, where the folder is not here yet.
        figures: Where what the modules themselves give is kept from one plan to the next.

    Raises:
        ValueError: An unknown device, a share outside (0, 1], a size that does not fit the attention's pooling,
            or a tile that does not fit the VAE.
        FileNotFoundError: The model's architecture is not known.
    """
    if not 0 < share <= 1:
        raise ValueError(f"the share of peak must be in (0, 1], got {share}")
    model, data = ModelParams(**params["model"]), DataParams(**params["data"])
    generation, tables = GenerationParams(**params["generation"]), checked_tables(params)
    architecture, found = load_architecture(model.path), find_device(device)
    if model.tile is not None:
        tile_stride(architecture.vae, model.tile)
    image_count, image_note = _count_images(data, images)
    clips, first_frames, clip_notes = _count_clips(generation, EvaluationParams(**params["evaluation"]))
    costs = Costs(architecture, model, found, share, first_frames, figures)
    rows = [_data_row(costs, data, image_count)]
    rows += [_training_row(costs, "stage1", n, STAGE1, r, data.low, FULL) for n, r in tables.stage1.items()]
    rows += [
        _training_row(costs, "stage2", n, r.label, r, data.high, r.attention, stage1_of(r, tables))
        for n, r in tables.adapters.items()
    ]
    rows += [_native_row(costs, generation, clips)]
    rows += [_arm_row(costs, n, arm, tables, generation, clips) for n, arm in tables.arms.items()]
    rows += _validation_rows(costs, tables, generation)
    measures, measure_note = _measures_row(model.target, clips * len(tables.arms))
    rows.append(measures)
    numbers = costs.parameters
    # Weights as published: 16 bit but for the VAE.
    weights = 2 * (numbers["transformer"] + numbers["text_encoder"]) + 4 * numbers["vae"]
    notes = (image_note, *clip_notes, measure_note)
    return Plan(
        architecture.name, architecture.source, numbers, weights / 1e9, device.lower(), found.memory_gb, share, notes,
        tuple(rows),
    )  # fmt: skip


def _count_images(data: DataParams, images: int | None) -> tuple[int, str]:
    if images is not None:
        return images, f"images: {images}, as given"
    if data.source == "folder":
        try:
            there = len(find_images(data.path))
        except FileNotFoundError:
            there = 0
        count = min(there, data.count or there)
        if count:
            return count, f"images: {count} of {there} in {data.path}"
    if data.count is not None:
        return data.count, f"images: data.count, {data.count}"
    return 1, f"images: counted as 1, {data.path} holds none yet; give --images"


def _count_clips(generation: GenerationParams, evaluation: EvaluationParams) -> tuple[int, bool, tuple[str, ...]]:
    """How many clips an arm makes, whether they hold first frames; of what, and how many VBench's dimensions have."""
    try:
        prompts = load_prompts(generation)
        counts = clips_per_dimension(prompts, evaluation.vbench_dimensions)
    except (FileNotFoundError, ValueError, ImportError) as error:
        count = (generation.count or 1) * len(generation.seeds)
        unknown = f"clips an arm: {count}; the prompts themselves are not here: {error}", "VBench: not known"
        return count, False, unknown
    first_frames = "first_frame" in prompts
    held = ", each with a first frame" if first_frames else ""
    scored = ", ".join(f"{name} {n}" for name, n in counts.items())
    notes = (
        f"clips an arm: {len(prompts)}, (prompt, seed) pairs of {generation.prompts}{held}",
        f"clips an arm that VBench's dimensions are defined on: {scored}",
    )
    return len(prompts), first_frames, notes


def _data_row(costs: Costs, data: DataParams, count: int) -> Row:
    """Captions and three latents of every image: low, high, and high after the pixel degradation."""
    work = costs.text() + costs.encode(data.low) + costs.encode(data.high) * 2
    encoding = costs.weights("vae") + data.encode_batch * costs.vae_memory(data.high, decode=False)
    numbers = sum(_numbers(costs, size) for size in (data.low, data.high, data.high))
    text = costs.model.text_length * costs.architecture.transformer["text_dim"]
    size = 2 * numbers + costs.number_bytes * text
    peak = max(costs.text_memory(), CONTEXT_BYTES + encoding)
    return _row("data", "cache", "Latents and text embeddings", "image", count, None, None, work, peak, count * size)


def _numbers(costs: Costs, size: ClipSize) -> int:
    channels, frames, height, width = costs.architecture.latent(size)
    return channels * frames * height * width


def _training_row(
    costs: Costs,
    group: str,
    name: str,
    label: str,
    row: TrainParams,
    size: ClipSize,
    attention: AttentionParams,
    stage1: LoraParams | None = None,
) -> Row:
    tokens, keys = costs.keys(size, FULL), costs.keys(size, attention)
    work, peak = costs.step(size, attention, row, stage1), costs.step_memory(size, row, stage1)
    disk = 4.0 * costs.adapter_parameters(row.lora)
    return _row(group, name, label, "step", row.steps, tokens, keys, work, peak, disk)


def _native_row(costs: Costs, generation: GenerationParams, clips: int) -> Row:
    size = costs.model.native
    disk = clips * _clip_bytes(size)
    if generation.native_source == "truth":
        return _row("native", "native", "True renders", "clip", clips, None, None, Work(), 0.0, disk)
    passes = generation.native_steps * _passes(generation.native_guidance_scale)
    work = costs.text() + costs.forward(size, FULL) * passes + costs.decode(size)
    peak = _rendering_memory(costs, size, generation.batch_size, 0.0, False)
    tokens = costs.keys(size, FULL)
    return _row("native", "native", "Native clips, shared by all arms", "clip", clips, tokens, tokens, work, peak, disk)


def _arm_row(costs: Costs, name: str, arm: ArmParams, tables: Tables, generation: GenerationParams, clips: int) -> Row:
    size, method = costs.model.target, method_of(arm)
    disk, steps = clips * _clip_bytes(size), schedule_steps(arm.steps, method.strength(arm), arm.steps_are)
    load = method.workload(arm, steps)
    work = costs.encode(size) * load.encodes + costs.decode(size) * load.decodes
    if not load.forwards:
        peak = _vae_peak(costs, size) + CONTEXT_BYTES if load.encodes or load.decodes else 0.0
        return _row("arm", name, arm.label, "clip", clips, None, None, work, peak, disk)
    adapters = costs.arm_adapters(arm, tables)
    for attention, times in load.forwards:
        work += costs.forward(size, attention, adapters) * times
    tokens, keys = costs.keys(size, FULL), costs.keys(size, arm.attention)
    extra = sum(map(costs.adapter_bytes, adapters))
    if load.keeps_cross_attention and not costs.model.offload:
        config = costs.architecture.transformer
        width = config["num_attention_heads"] * config["attention_head_dim"]
        extra += generation.batch_size * config["num_layers"] * tokens * width * costs.number_bytes
    peak = _rendering_memory(costs, size, generation.batch_size * load.copies, extra, load.encodes > 0)
    return _row("arm", name, arm.label, "clip", clips, tokens, keys, work, peak, disk)


def _validation_rows(costs: Costs, tables: Tables, generation: GenerationParams) -> Iterator[Row]:
    """Clips while adapters train, each as the adapter's first arm makes it; memory is that of the arm."""
    for name, row in tables.adapters.items():
        if row.validation_clips and row.validate_every:
            arm, times = tables.arms[tables.arm_of(name)], -(-row.steps // row.validate_every)
            made = _arm_row(costs, name, arm, tables, generation, row.validation_clips * times)
            yield replace(made, group="validation", label=f"Validation clips, {times} times {row.validation_clips}")


def _measures_row(size: ClipSize, clips: int) -> tuple[Row, str]:
    """Our own measures of every arm's clips, on processors while the device idles, and what that rests on."""
    cores = os.cpu_count() or 1
    work = measuring(size, cores)
    memory = measuring_memory(size) / 1e9
    note = f"our measures: on the {cores} cores of this machine, an arm at a time; {memory:.1f} GB of main memory"
    return _row("measures", "all", "Our measures, on processors", "clip", clips, None, None, work, 0.0, 0.0), note


def _passes(guidance_scale: float) -> int:
    return 1 if guidance_scale == 1 else 2


def _rendering_memory(costs: Costs, size: ClipSize, batch: int, extra: float, encodes: bool) -> float:
    """Text encoder alone; then transformer and VAE together, or in turns."""
    denoising = costs.weights("transformer") + extra + costs.forward_memory(size, batch)
    # Clips are decoded one at a time.
    working = max(costs.vae_memory(size, True), costs.vae_memory(size, False) if encodes else 0.0)
    if costs.model.offload:
        together = max(denoising, costs.weights("vae") + working)
    else:
        both = costs.weights("transformer") + extra + costs.weights("vae")
        together = both + max(costs.forward_memory(size, batch), working)
    return max(costs.text_memory(), CONTEXT_BYTES + together)


def _vae_peak(costs: Costs, size: ClipSize) -> float:
    return costs.weights("vae") + max(costs.vae_memory(size, True), costs.vae_memory(size, False))


def _clip_bytes(size: ClipSize) -> float:
    """8-bit RGB as it is; lossless H.264 is smaller, by how much depends on the content."""
    return 3.0 * size.frames * size.height * size.width


def _row(
    group: str,
    name: str,
    label: str,
    unit: str,
    count: int,
    tokens: int | None,
    keys: int | None,
    work: Work,
    peak: float,
    disk: float,
) -> Row:
    return Row(group, name, label, unit, count, tokens, keys, work.teraflops, work.seconds, peak / 1e9, disk / 1e9)
