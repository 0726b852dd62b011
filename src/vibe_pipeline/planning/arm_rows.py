"""The clips of an arm as rows of a plan, by the workload of its method."""

from collections.abc import Iterator, Sequence
from typing import Any

from vibe_pipeline.diffusion.attention_flops import WHICH
from vibe_pipeline.diffusion.step_cache import step_cache_of
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.experiment.model import ClipSize
from vibe_pipeline.experiment.tables import Experiment
from vibe_pipeline.generation.attention_sizes import chunk_size
from vibe_pipeline.generation.methods import Workload
from vibe_pipeline.generation.methods.forwards import unconditional_of
from vibe_pipeline.planning.block_loads import block_waits, weights_there
from vibe_pipeline.planning.costs import CONTEXT_BYTES, Costs
from vibe_pipeline.planning.expert_loads import ExpertLoad, expert_loads, moving
from vibe_pipeline.planning.network_costs import network_cost
from vibe_pipeline.planning.plan_rows import FILTER, FULL, PlanRow, clip_bytes, rendering_memory, vae_peak
from vibe_pipeline.planning.stills_filter import filtering_seconds
from vibe_pipeline.planning.work import Work


def arm_row(
    costs: Costs, name: str, arm: ArmParams, tables: Experiment, generation: GenerationParams, clips: int
) -> PlanRow:
    """An arm's clips, by the workload of its method."""
    size, shares = costs.model.target, expert_loads(costs, arm, tables)
    load = shares[-1].load
    work = costs.decode(size) * load.decodes
    if load.filtered:
        work += Work(parts={FILTER: filtering_seconds(size)})
    row = _denoising_row(costs, arm, shares, generation, work) if load.forwards else _other_row(costs, load, work)
    work = row.pop("work")
    return PlanRow.of(
        group="arm",
        name=name,
        label=arm.label,
        unit="clip",
        count=clips,
        work=work + costs.write(size, beside=work.seconds),
        disk=clips * clip_bytes(size),
        **row,
    )


def _other_row(costs: Costs, load: Workload, work: Work) -> dict[str, Any]:
    """Of an arm without the transformer: work and peak."""
    peak = vae_peak(costs, costs.model.target) + CONTEXT_BYTES if load.encodes or load.decodes else 0.0
    if load.network is not None and (found := network_cost(costs, load.network)):
        work, peak = work + found.work, CONTEXT_BYTES + found.memory
    return {"work": work, "peak": peak}


def _denoising_row(
    costs: Costs, arm: ArmParams, shares: Sequence[ExpertLoad], generation: GenerationParams, work: Work
) -> dict[str, Any]:
    """Of an arm whose clips the transformer makes: work, what is read before, tokens, keys and peak."""
    size, load = costs.model.target, shares[-1].load
    compiled = costs.model.compile and arm.step_cache is None and arm.region_adaptive is None
    seen = chunk_size(arm, size, costs.model.native.frames)
    passes = sum((_pass(costs, arm, share, compiled, generation.batch_size) for share in shares), Work())
    work += passes
    for height, width, attention, times in load.earlier:
        smaller = size.model_copy(update={"height": height, "width": width})
        stage = costs.forward(smaller, attention, shares[-1].adapters, compiled) * times
        held = sum(map(costs.adapter_bytes, shares[-1].adapters))
        work += stage + block_waits(costs, stage.seconds, times, times, generation.batch_size, held)
    batch = generation.batch_size * load.copies
    forward = max(costs.forward_memory(seen, batch, attention, arm.rope) for attention, _ in load.forwards)
    if any(share.partial for share in shares):  # freed before the VAE is at work
        forward += costs.kept_memory(size, batch, _passes(arm))
    adapters = max(sum(map(costs.adapter_bytes, share.adapters)) for share in shares)
    there = weights_there(costs, adapters) + _held(costs, arm, load, seen) * generation.batch_size
    read = [share.part for share in shares if share.works or load.earlier]
    work += moving(costs, read, load.encodes + load.decodes, generation.batch_size)
    return {
        "work": work,
        "once": costs.load(*read, "vae") + _compiling(costs, arm, seen, compiled) + _calibration(arm, passes),
        "tokens": costs.keys(seen, FULL),
        "keys_per_query": _keys(costs, arm, shares, seen),
        "peak": rendering_memory(costs, size, forward, there, load.encodes > 0),
    }


def _keys(costs: Costs, arm: ArmParams, shares: Sequence[ExpertLoad], seen: ClipSize) -> float:
    """Keys that a query is compared with; where guidance passes attend differently, on the average over forwards."""
    if arm.unconditional_attention is None:
        return costs.keys(seen, shares[-1].load.forwards[0][0])
    counted = [(costs.keys(seen, own), times) for share in shares for own, times in share.load.forwards]
    return sum(keys * times for keys, times in counted) / sum(times for _, times in counted)


def _compiling(costs: Costs, arm: ArmParams, seen: ClipSize, compiled: bool) -> Work:
    """What is waited for compilers before the first clip: once for each attention that the row's own pass has."""
    kinds = [arm.attention] if arm.unconditional_attention is None else [arm.attention, unconditional_of(arm)]
    return sum((costs.compiling(seen, kind, compiled) for kind in kinds), Work())


def _calibration(arm: ArmParams, passes: Work) -> Work:
    """What a step cache that has to be calibrated takes before the first clip: the forwards of one, not decoded."""
    cache = step_cache_of(arm.step_cache)
    return Work(parts=passes.parts) if cache is not None and cache.calibrates else Work()


def _passes(arm: ArmParams) -> int:
    """Guidance passes of a step."""
    return 1 if arm.guidance_scale == 1 else 2


def _held(costs: Costs, arm: ArmParams, load: Workload, seen: ClipSize) -> float:
    """Bytes that are kept between the steps of one clip: by attention, FreeSwim, a step cache."""
    config = costs.architecture.transformer
    width = config["num_attention_heads"] * config["attention_head_dim"]
    hidden = costs.keys(seen, FULL) * width * costs.number_bytes
    held = _passes(arm) * costs.kept_in_attention(seen, arm.attention)
    if load.keeps_cross_attention and not costs.model.offload:
        held += config["num_layers"] * hidden
    if (cache := step_cache_of(arm.step_cache)) is not None:
        held += cache.held(config["num_layers"]) * _passes(arm) * hidden
    return held


def _pass(costs: Costs, arm: ArmParams, share: ExpertLoad, compiled: bool, batch: int) -> Work:
    """A transformer's forwards of one clip, and what is waited for its blocks."""
    work, chunks = _forwards(costs, arm, share, compiled), _chunks(costs, arm)
    adapters = sum(map(costs.adapter_bytes, share.adapters))
    return work + block_waits(costs, work.seconds, chunks * share.calls, chunks * share.computed, batch, adapters)


def _chunks(costs: Costs, arm: ArmParams) -> int:
    """Of a step's prediction; 1 where clips are predicted whole."""
    return 1 if arm.long is None else arm.long.seen(costs.model.target.frames, costs.model.native.frames)[0]


def _forwards(costs: Costs, arm: ArmParams, share: ExpertLoad, compiled: bool) -> Work:
    """A transformer's forwards of one clip: of whole clips or of their chunks, some with the active tokens alone."""
    size, native, work = costs.model.target, costs.model.native.frames, Work()
    chunks = _chunks(costs, arm)
    seen = chunk_size(arm, size, native)
    for attention, times in share.load.forwards:
        work += costs.forward(seen, attention, share.adapters, compiled) * (chunks * times - share.partial)
        if arm.region_adaptive is not None:
            schedule = arm.region_adaptive.schedule
            work += costs.forward(seen, attention, share.adapters, compiled, schedule) * share.partial
    for own, left_out in zip((arm.attention, unconditional_of(arm)), share.reused, strict=True):
        for which, times in zip(WHICH, left_out, strict=True):
            if times:
                work += costs.attention(seen, own, share.adapters, which) * -times
    return work


def arm_rows(costs: Costs, tables: Experiment, generation: GenerationParams, clips: int) -> Iterator[PlanRow]:
    """Every arm."""
    for name, arm in tables.arms.items():
        try:
            yield arm_row(costs=costs, name=name, arm=arm, tables=tables, generation=generation, clips=clips)
        except ValueError as error:
            raise ValueError(f"arms.{name}: {error}") from None
