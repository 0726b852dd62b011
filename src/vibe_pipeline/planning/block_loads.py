"""`model.offload: blocks` in a plan: what of a transformer is on the device, in main memory, and what its coming takes.

Blocks come one at a time, each while the one before computes: a forward takes the longer of the two, but the first of a
pass, in which diffusers learns the order, takes both. What is not in blocks comes before a forward and leaves after it,
with nothing beside. Where the device's memory is the main memory nothing comes, and all is there.
"""

from collections.abc import Iterator

from vibe_pipeline.diffusion.quantisation import QUANTISATIONS
from vibe_pipeline.planning.costs import Costs
from vibe_pipeline.planning.machine import Machine
from vibe_pipeline.planning.rates import MOVE_BYTES
from vibe_pipeline.planning.work import Work

BLOCKS_THERE = 2
"""The block at work, and the next."""


def by_blocks(costs: Costs) -> bool:
    """Whether blocks come to the device one by one."""
    return costs.model.offload == "blocks" and not isinstance(costs.device, Machine)


def weights_there(costs: Costs, adapters: float = 0.0) -> float:
    """Bytes of a transformer's weights and of the adapters on them that are on the device at once."""
    whole = costs.weights("transformer")
    if not by_blocks(costs):
        return whole + adapters
    blocks = _in_blocks(costs)
    return whole - blocks + (blocks + adapters) * min(1.0, BLOCKS_THERE / costs.architecture.transformer["num_layers"])


def pinned(costs: Costs) -> float:
    """Bytes of main memory that the blocks of all transformers take page-locked: torch rounds each tensor up to 2^n."""
    if not by_blocks(costs):
        return 0.0
    small = None if costs.model.quantisation is None else QUANTISATIONS[costs.model.quantisation].number_bytes
    total = 0
    for numbers, quantised in costs.kept(("block",), lambda: costs.architecture.block):
        taken = numbers * (small if quantised and small is not None else costs.number_bytes)
        total += 1 << max(0, int(taken) - 1).bit_length()
    return float(total * costs.architecture.transformer["num_layers"] * len(costs.architecture.experts))


def block_waits(costs: Costs, seconds: float, calls: int, computed: int, batch: int, adapters: float = 0.0) -> Work:
    """What a clip waits for weights in one pass of one transformer, beyond what comes while blocks compute.

    Args:
        costs: Of the model, on a device.
        seconds: Of all its forwards.
        calls: Forwards that are asked for; blocks come for each.
        computed: Those of them in whose place no step cache stands.
        batch: Clips that are made together.
        adapters: Bytes of what lies on the weights.
    """
    if not by_blocks(costs) or not calls:
        return Work()
    whole, inside = costs.weights("transformer") - _multiplied(costs), _in_blocks(costs)
    coming, ends = ((inside + adapters) / MOVE_BYTES / batch, 2 * (whole - inside) / MOVE_BYTES / batch)
    first = min(coming, seconds / max(computed, 1))
    waited = calls * ends + (calls - computed) * coming + max(0.0, computed * coming - seconds) + first
    return Work(parts={"moving weights": waited})


def block_notes(costs: Costs) -> Iterator[str]:
    """What a plan with blocks rests on; nothing without."""
    if by_blocks(costs):
        layers = costs.architecture.transformer["num_layers"]
        whole, there = costs.weights("transformer") / 1e9, weights_there(costs) / 1e9
        yield (
            f"model.offload blocks: of the transformer's {whole:.1f} GB {there:.2f} are on the device, {BLOCKS_THERE} "
            f"of {layers} blocks and what is in none; {pinned(costs) / 1e9:.1f} GB of main memory are page-locked. "
            f"Every forward brings all blocks while others compute, at {MOVE_BYTES / 1e9:g} GB/s, assumed. Trainings "
            "hold the transformer whole"
        )


def _in_blocks(costs: Costs) -> float:
    """Bytes of the weights of all blocks, as they are held."""
    block = costs.kept(("block",), lambda: costs.architecture.block)
    numbers = costs.architecture.transformer["num_layers"] * sum(count for count, _ in block)
    outside = (costs.parameters["transformer"] - numbers) * costs.number_bytes
    return costs.weights("transformer") - _multiplied(costs) - outside


def _multiplied(costs: Costs) -> float:
    """Bytes of the one layer whose numbers are made of what is quantised, as it is multiplied."""
    if costs.model.quantisation is None:
        return 0.0
    return float(costs.kept(("quantised",), lambda: costs.architecture.quantised)[2] * costs.number_bytes)
