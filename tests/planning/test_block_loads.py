"""`model.offload: blocks` in a plan: what is on the device, what waits in main memory, what is waited for."""

from dataclasses import replace
from typing import Any

import pytest

from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.experiment.tables import Experiment
from vibe_pipeline.experiment.training import LoraParams
from vibe_pipeline.planning.architecture import load_architecture
from vibe_pipeline.planning.arm_rows import arm_row
from vibe_pipeline.planning.block_loads import block_notes, block_waits, pinned, weights_there
from vibe_pipeline.planning.costs import Costs
from vibe_pipeline.planning.devices import find_device
from vibe_pipeline.planning.expert_loads import waiting, weight_notes
from vibe_pipeline.planning.machine import Machine
from vibe_pipeline.planning.plan_rows import native_row, rendering_memory
from vibe_pipeline.planning.rates import MOVE_BYTES

WIDTH, INNER, LAYERS = 3072, 14336, 30
LAYER = 8 * WIDTH**2 + 2 * WIDTH * INNER
"""Numbers of a block's linear weights, without what is small."""
GENERATION = GenerationParams(prompts="miniature", native_steps=2, native_guidance_scale=1.0)
TABLES = Experiment(stage1={}, adapters={}, arms={"a": ArmParams(label="a")}, reference_arm="a")


def costs_of(offload: bool | str, base: str = "wan22_ti2v_5b", **changes: Any) -> Costs:
    size = {"height": 704, "width": 1280, "frames": 121}
    model = ModelParams(path="x", native=size, target=size, dtype="bfloat16", offload=offload, **changes)
    return Costs(architecture=load_architecture(base), model=model, device=find_device("4090"))


def test_two_blocks_are_there_and_what_is_in_none() -> None:
    """By hand: ten weights of a block, and embeddings and both ends, which are 4 % of the 5B."""
    blocks, whole = costs_of("blocks"), costs_of(True)
    small = 2 * LAYER * 2 + (whole.weights("transformer") - LAYERS * LAYER * 2)
    assert weights_there(blocks) == pytest.approx(small, rel=0.01)
    assert weights_there(whole) == whole.weights("transformer")
    lora = whole.adapter_bytes(LoraParams(rank=32))
    assert weights_there(blocks, lora) - weights_there(blocks) == pytest.approx(lora * 2 / LAYERS)
    assert weights_there(whole, lora) == whole.weights("transformer") + lora


@pytest.mark.parametrize(("kind", "number_bytes"), [("int8", 1), ("nf4", 0.5625)])
def test_quantised_blocks_come_as_their_bytes(kind: str, number_bytes: float) -> None:
    """Beside two of them the one layer as it is multiplied, which is there as ever."""
    blocks, plain = costs_of("blocks", quantisation=kind), costs_of("blocks")
    saved = weights_there(plain) - weights_there(blocks)
    assert saved == pytest.approx(2 * LAYER * (2 - number_bytes) - WIDTH * INNER * 2, rel=0.01)


def test_main_memory_is_locked_in_powers_of_two() -> None:
    """3072 x 3072 in 16 bit are 18.9 MB, for which torch takes 33.6; 3072 x 14336 88.1 MB, for which it takes 134.2."""
    assert pinned(costs_of("blocks")) == pytest.approx(LAYERS * (8 * 2**25 + 2 * 2**27), rel=0.001)
    assert waiting(costs_of("blocks")) == pinned(costs_of("blocks")) and pinned(costs_of(True)) == 0
    two = costs_of("blocks", "wan22_t2v_a14b")
    assert waiting(two) == pinned(two) == pytest.approx(2 * 40 * (8 * 2**26 + 2 * 2**28), rel=0.001)


def test_what_comes_while_blocks_compute_takes_no_time() -> None:
    """The longer of both, but for the first forward; ends come and go alone, blocks for forwards left out too."""
    costs = costs_of("blocks")
    inside = LAYERS * LAYER * 2 / MOVE_BYTES
    ends = 2 * (costs.weights("transformer") - LAYERS * LAYER * 2) / MOVE_BYTES

    def waited(seconds: float, *given: int) -> float:
        return block_waits(costs, seconds, *given).parts["moving weights"]

    assert waited(80.0, 10, 10, 1) == pytest.approx(10 * ends + inside, rel=0.01)  # 8 s each hide 1.6
    assert waited(1.0, 10, 10, 1) == pytest.approx(10 * ends + 10 * inside - 1.0 + 0.1, rel=0.01)
    assert waited(80.0, 10, 10, 4) == pytest.approx((10 * ends + inside) / 4, rel=0.01)  # a batch shares them
    assert waited(40.0, 10, 5, 1) == pytest.approx(10 * ends + 5 * inside + inside, rel=0.01)  # a cache's five
    assert not block_waits(costs, 0.0, 0, 0, 1).parts and not block_waits(costs_of(True), 80.0, 10, 10, 1).parts


CALLS: dict[str, tuple[dict[str, Any], int, int]] = {
    "plain": ({}, 8, 8),
    "guided": ({"guidance_scale": 5.0}, 16, 16),
    "midpoint": ({"scheduler": "midpoint"}, 16, 16),
    "cached": ({"step_cache": {"kind": "taylor", "before": 1}}, 8, 4),  # one in two
    "swim": ({"method": "freeswim", "attention": {"kind": "window", "half_window": (1, 1)}}, 8, 8),
}


@pytest.mark.parametrize("which", CALLS)
def test_blocks_come_as_often_as_a_row_asks(wan21, monkeypatch: pytest.MonkeyPatch, which: str) -> None:
    """Guidance's passes and a midpoint's evaluations bring blocks, and so do forwards that a cache leaves out."""
    for memory in ("forward_memory", "vae_memory", "text_memory"):  # which take long to count
        monkeypatch.setattr(Costs, memory, lambda *_: 0.0)
    row, calls, computed = CALLS[which]
    arm = ArmParams(label="a", **({"steps": 8, "guidance_scale": 1.0} | row))
    plain, blocks = (
        Costs(architecture=load_architecture(str(wan21.path)), model=wan21.model(offload=o), device=find_device("4090"))
        for o in (True, "blocks")
    )
    generation = GENERATION.model_copy(update={"batch_size": 2})
    whole, found = (arm_row(costs, "a", arm, TABLES, generation, 1) for costs in (plain, blocks))
    assert found.parts["transformer"] == pytest.approx(whole.parts["transformer"])
    vae = 2 * 2 * plain.weights("vae") / MOVE_BYTES / 2
    waits = block_waits(blocks, found.parts["transformer"], calls, computed, 2).parts["moving weights"]
    assert found.parts["moving weights"] == pytest.approx(vae + waits)
    assert waits > (calls - computed) * (weights_there(blocks) / 2) / MOVE_BYTES / 2
    natives = [native_row(costs, generation, 1) for costs in (plain, blocks)]
    waits = block_waits(blocks, natives[1].parts["transformer"], 2, 2, 2).parts["moving weights"]
    assert natives[1].parts["moving weights"] == pytest.approx(vae / 2 + waits)


def test_the_peak_of_denoising_loses_what_is_not_there() -> None:
    """Of a forward that is larger than all else."""
    both = costs_of(True), costs_of("blocks")
    small = both[0].model.target.model_copy(update={"height": 64, "width": 64, "frames": 1})
    peaks = [rendering_memory(costs, small, 1e12, weights_there(costs), False) for costs in both]
    assert peaks[0] - peaks[1] == pytest.approx(10.0e9 - 0.835e9, rel=0.001)


def test_where_all_memory_is_one_nothing_comes() -> None:
    machine = Machine("this", 64.0, 1.0, rates=dict.fromkeys(("transformer", "autocast", "vae"), 1.0))
    here = replace(costs_of("blocks"), device=machine)
    assert weights_there(here) == here.weights("transformer")
    assert not pinned(here) and not list(block_notes(here)) and not block_waits(here, 1.0, 8, 8, 1).parts


def test_the_plan_says_what_it_rests_on() -> None:
    (said,) = weight_notes(costs_of("blocks"), TABLES)
    assert "of the transformer's 10.0 GB 0.83 are on the device, 2 of 30 blocks" in said
    assert "16.1 GB of main memory are page-locked" in said and "at 6 GB/s, assumed" in said
    assert not list(weight_notes(costs_of(True), TABLES))
    experts, blocks = list(weight_notes(costs_of("blocks", "wan22_t2v_a14b"), TABLES))
    assert experts.endswith("one is on the device at a time") and "85.9 GB" in blocks
