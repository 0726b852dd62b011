"""What of an arm's clip each transformer of the base computes: all of it, or its share of two experts' levels."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from vibe_pipeline.diffusion.flow import Levels, is_high_noise, noise_levels, share_below
from vibe_pipeline.diffusion.support import HIGH_NOISE
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.experiment.tables import Experiment
from vibe_pipeline.experiment.training import TrainParams
from vibe_pipeline.generation.methods import method_of
from vibe_pipeline.generation.methods.base import Workload
from vibe_pipeline.generation.methods.forwards import passes
from vibe_pipeline.planning.block_loads import block_notes, by_blocks, pinned
from vibe_pipeline.planning.costs import Costs
from vibe_pipeline.planning.counts import Adapter
from vibe_pipeline.planning.machine import Machine
from vibe_pipeline.planning.rates import MOVE_BYTES
from vibe_pipeline.planning.work import Work


@dataclass(frozen=True)
class ExpertLoad:
    """One transformer's share.

    Attributes:
        part: Of the model.
        adapters: Beside its weights.
        load: At the levels that are its own; what is no forward is that of the whole clip.
        calls: How often it is asked for in a clip's pass, with what a step cache leaves out.
        computed: The same without.
        partial: Of its forwards those that run the active tokens of `region_adaptive` alone.
        reused: Of its forwards those in which a step cache stands in for self-attention, and for cross-attention; of
            the pass with the prompt, and of the one without.
    """

    part: str
    adapters: Sequence[Adapter]
    load: Workload
    calls: int = 0
    computed: int = 0
    partial: int = 0
    reused: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))

    @property
    def works(self) -> bool:
        """Whether it is asked for at all."""
        return any(times for _, times in self.load.forwards)


def expert_loads(costs: Costs, arm: ArmParams, tables: Experiment) -> list[ExpertLoad]:
    """Of an arm, high noise first. Stages before the row's own pass are counted as the last one's, whole."""
    method, found = method_of(arm), []
    levels, experts = method.levels(arm, costs.model.flow_shift), costs.architecture.experts
    for part, own in zip(experts, split(levels, costs.architecture.boundary), strict=True):
        scale = arm.guidance_scale if part == experts[0] or arm.guidance_scale_2 is None else arm.guidance_scale_2
        row = arm.model_copy(update={"guidance_scale": scale})
        guided, adapters = method.guided(row, own), costs.arm_adapters(arm, tables, part)
        load = method.workload(row, len(own), guided)
        plain = row.model_copy(update={"step_cache": None})
        calls, computed = (passes(each, len(own), guided) if load.forwards else 0 for each in (plain, row))
        partial, reused = method.partial(row, own), method.reused(row, own)
        share = ExpertLoad(part, adapters, load, calls=calls, computed=computed, partial=partial, reused=reused)
        found.append(share)
    return found


def native_passes(costs: Costs, generation: GenerationParams) -> dict[str, int]:
    """Forwards of a native clip by each transformer."""
    levels = noise_levels(generation.native_steps, costs.model.flow_shift)
    one, two = generation.native_guidance_scale, generation.native_guidance_scale_2
    scales = (one, one if two is None else two)
    shares = zip(costs.architecture.experts, split(levels, costs.architecture.boundary), scales, strict=False)
    return {part: len(own) * (1 if scale == 1 else 2) for part, own, scale in shares}


def split(levels: Levels, boundary: float | None) -> list[Levels]:
    """Levels of each transformer, high noise first; with one, all of them."""
    if boundary is None:
        return [levels]
    return [tuple(s for s in levels if is_high_noise(s, boundary) == high) for high in (True, False)]


def waiting(costs: Costs) -> float:
    """Bytes that wait in main memory: the expert that is not at work, if there are two, or the blocks of all."""
    if by_blocks(costs):
        return pinned(costs)
    return 0.0 if costs.architecture.boundary is None else costs.weights(HIGH_NOISE)


def waiting_on_device(costs: Costs) -> float:
    """The same, where the device's memory is the main memory."""
    return waiting(costs) if isinstance(costs.device, Machine) else 0.0


def moving(costs: Costs, parts: Collection[str], vae_calls: int, batch: int) -> Work:
    """Weights between main memory and the device for one clip of a batch.

    Of two experts each comes once and leaves once; with offload every part does, the VAE at each of its calls. Where
    blocks come one by one they are not counted here (`block_waits`), and where the device's memory is the main memory
    nothing moves.

    Args:
        costs: Of the model, on a device.
        parts: Transformers that a clip asks for.
        vae_calls: Encoding and decoding, once each for a whole batch.
        batch: Clips that are made together.
    """
    offload = bool(costs.model.offload)
    if isinstance(costs.device, Machine) or not (offload or len(parts) > 1):
        return Work()
    whole = () if by_blocks(costs) else parts
    moved = sum(map(costs.weights, whole)) + offload * vae_calls * costs.weights("vae")
    return Work(parts={"moving weights": 2 * moved / MOVE_BYTES / batch})


def weight_notes(costs: Costs, tables: Experiment) -> Iterator[str]:
    """What a plan rests on where weights wait in main memory; nothing where they do not."""
    yield from expert_notes(costs, tables)
    yield from block_notes(costs)


def expert_notes(costs: Costs, tables: Experiment) -> Iterator[str]:
    """What a plan of two experts rests on; nothing where there is one."""
    boundary, rows = costs.architecture.boundary, (*tables.stage1.values(), *tables.adapters.values())
    if boundary is None:
        return
    said = (
        f"two experts: from sigma {boundary:g} transformer is at work, below it transformer_2, which adapters belong "
        "to; one is on the device at a time"
    )
    places = (
        f", the other, {waiting(costs) / 1e9:.1f} GB, in main memory. Where a clip asks for both, they change places "
        f"twice for each batch of clips, at {MOVE_BYTES / 1e9:g} GB/s, assumed"
    )
    yield said if by_blocks(costs) else said + places
    shares = {level_share(row, boundary) for row in rows if not getattr(row, "bridge", None)}
    if shares:
        said = " and ".join(f"{share:.0%}" for share in sorted(shares))
        yield f"trainings draw noise levels below sigma {boundary:g} alone, where {said} of all their draws would lie"


def level_share(row: TrainParams, boundary: float) -> float:
    """Share of a training's noise levels that lie below a boundary, if all were drawn."""
    return share_below(row.sigma_sampling, row.sigma_shift, boundary, row.logit_mean, row.logit_std)
