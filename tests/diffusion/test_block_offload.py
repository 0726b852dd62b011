"""Blocks that come to the device one at a time: the same numbers, no more blocks than said, nothing left behind."""

import gc
import weakref
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from tests.block_device import BlockDevice
from tests.conftest import STYLES
from tests.passes import PASSES, passes, predictors, start
from vibe_pipeline.diffusion import lora
from vibe_pipeline.diffusion.attention import GclfSettings, install_gclf
from vibe_pipeline.diffusion.block_offload import compile_forwards, gather_blocks, offload_blocks
from vibe_pipeline.diffusion.flow import sigma_schedule
from vibe_pipeline.diffusion.freeswim import freeswim_predictor, install_freeswim
from vibe_pipeline.diffusion.quantisation import quantise
from vibe_pipeline.diffusion.regions import RegionSchedule, install_regions
from vibe_pipeline.diffusion.rope import install_rope, rope_of
from vibe_pipeline.diffusion.sampling import denoise, guided
from vibe_pipeline.diffusion.step_cache import (
    FirstBlock,
    Pyramid,
    Taylor,
    forget_steps,
    install_step_cache,
    remove_step_cache,
)
from vibe_pipeline.experiment.rope import RopeParams

LAYERS = 5
CUDA, CPU = torch.device("cuda"), torch.device("cpu")
LEVELS = sigma_schedule(4, 3.0, 0.7)


@pytest.fixture(params=[False, True], ids=["plain", "streamed"])
def streamed(request: pytest.FixtureRequest) -> bool:
    """Whether as on CUDA."""
    return request.param


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch, streamed: bool) -> BlockDevice:
    return BlockDevice(monkeypatch, streamed)


@pytest.fixture
def place(streamed: bool) -> torch.device:
    return CUDA if streamed else CPU


def build(style: str, heads: int = 2, inner: int = 48) -> WanTransformer3DModel:
    """With more blocks than may be there at once."""
    torch.manual_seed(0)
    channels = STYLES[style]["z_dim"]
    made = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=heads,
        attention_head_dim=16,
        in_channels=channels,
        out_channels=channels,
        text_dim=64,
        freq_dim=32,
        ffn_dim=inner,
        num_layers=LAYERS,
    )
    return made.eval().requires_grad_(False)


@pytest.fixture(params=["wan21", "wan22"])
def transformer(request: pytest.FixtureRequest, device: BlockDevice) -> WanTransformer3DModel:
    """Of either kind."""
    device.watched = build(request.param)
    return device.watched


def clip(transformer: WanTransformer3DModel, steps: int = 4, scale: float = 3.0) -> Tensor:
    """A clip by both guidance passes, in the inference mode of a run."""
    forget_steps(transformer)
    predict = guided(*passes(transformer), scale)
    return denoise(predict, start(transformer.config.in_channels), sigma_schedule(steps, 3.0, 0.7))


def adapted(transformer: WanTransformer3DModel, name: str, seed: int) -> None:
    lora.add_adapter(transformer, name, 4, 8.0, ("to_q", "to_v", "ffn.net.2"), seed)
    generator = torch.Generator().manual_seed(seed)
    state = lora.adapter_state(transformer, name)
    lora.set_adapter_state(transformer, name, {k: torch.randn(v.shape, generator=generator) for k, v in state.items()})
    transformer.requires_grad_(False)


def gclf(transformer: WanTransformer3DModel) -> None:
    install_gclf(transformer, GclfSettings("gclf", (1, 1)), (2, 3))


PUT_ON: dict[str, Any] = {
    "nothing": lambda _: None,
    "an adapter": lambda t: adapted(t, "own", 1),
    "gclf": gclf,
    "gclf under an adapter": lambda t: (adapted(t, "own", 1), gclf(t)),
    "ntk": lambda t: install_rope(t, rope_of(RopeParams(kind="ntk")), (2, 3)),
    "yarn": lambda t: install_rope(t, rope_of(RopeParams(kind="yarn")), (2, 3)),
    "first_block": lambda t: install_step_cache(t, FirstBlock(0.6)),
    "taylor": lambda t: install_step_cache(t, Taylor(2, 2)),
    "pyramid": lambda t: install_step_cache(t, Pyramid(2, 2, (0.0, 1.0))),
}


@pytest.mark.parametrize("what", PUT_ON)
def test_not_a_bit_changes_and_few_blocks_are_there(transformer, device, place, streamed: bool, what: str) -> None:
    """Twice on and off: what was learned of the blocks' order the first time is not taken over."""
    PUT_ON[what](transformer)
    expected = clip(transformer)
    for _ in range(2):
        device.most = 0
        offload_blocks(transformer, place)
        assert device.there == 0
        assert torch.equal(clip(transformer), expected)
        assert device.most == (2 if streamed else 1) and device.there == 0
        gather_blocks(transformer)
    assert torch.equal(clip(transformer), expected)
    remove_step_cache(transformer)
    assert not any(hasattr(m, "_diffusers_hook") or "forward" in vars(m) for m in transformer.modules())


def test_a_block_that_does_not_come_computes_something_else(transformer, device, place) -> None:
    """What the other tests rest on: in main memory are not the weights."""
    expected = clip(transformer)
    offload_blocks(transformer, place)
    assert torch.equal(clip(transformer), expected)
    transformer.blocks[2]._diffusers_hook.get_hook("group_offloading").group.onload_ = lambda: None
    assert not torch.equal(clip(transformer), expected)


def test_each_block_comes_once_a_forward_and_the_next_one_with_it(transformer, device, place, streamed: bool) -> None:
    offload_blocks(transformer, place)
    device.moved.clear()
    clip(transformer, steps=1, scale=1.0)
    first = [0] + [1] * LAYERS
    assert device.moved == first  # the order is not known yet
    device.moved.clear()
    clip(transformer, steps=1, scale=1.0)
    assert device.moved == ([0, 1] + [2] * (LAYERS - 1) if streamed else first)


def test_weights_are_pinned_once_and_not_again_for_the_next_pass(transformer, device, place, streamed: bool) -> None:
    numbers = sum(p.numel() for p in transformer.blocks.parameters())
    offload_blocks(transformer, place)
    assert sum(p.numel() for p in device.pinned) == (numbers if streamed else 0)
    clip(transformer, steps=2)
    assert sum(p.numel() for p in device.pinned) == (numbers if streamed else 0)


KINDS = [("fp8_cast", None), ("nf4", "bitsandbytes"), ("int8", "torchao"), ("fp8", "torchao")]


@pytest.mark.parametrize(("kind", "package"), KINDS)
def test_quantised_blocks_come_as_they_are_held(device, place, streamed: bool, kind: str, package: str | None) -> None:
    """With an adapter on top; of torchao's tensors diffusers' own way is taken, and all else turns its bits."""
    if package is not None:
        pytest.importorskip(package, reason=f"model.quantisation needs the extra {package}")
    transformer = device.watched = build("wan21", heads=4, inner=128)  # scales are of 64 numbers
    quantise(transformer, kind)
    adapted(transformer, "own", 1)
    expected = clip(transformer, steps=2)
    for _ in range(2):
        offload_blocks(transformer, place)
        assert torch.equal(clip(transformer, steps=2), expected)
        assert device.most == (2 if streamed else 1)
        gather_blocks(transformer)
    assert torch.equal(clip(transformer, steps=2), expected)
    assert not [name for name, _ in transformer.blocks.named_buffers()]  # which diffusers leaves on the device


@pytest.mark.parametrize("refresh_every", [None, 2])
def test_freeswim_keeps_its_cross_attention(transformer, device, place, refresh_every: int | None) -> None:
    """Both paths run in one forward of twice the clips, which torch's hooks on the transformer make of it."""
    swim = install_freeswim(transformer, GclfSettings("window", (1, 1)), (2, 3), CPU)

    def swum() -> Tensor:
        swim.stored.clear()
        predict = freeswim_predictor(swim, *predictors(transformer), 2.0, refresh_every)
        return denoise(predict, start(transformer.config.in_channels), LEVELS)

    expected = swum()
    offload_blocks(transformer, place)
    assert torch.equal(swum(), expected)
    gather_blocks(transformer)


def test_some_tokens_run_alone(transformer, device, place) -> None:
    """Region-adaptive sampling: keys and values of all tokens stay on the device."""
    schedule = RegionSchedule(share=0.5, start=1, every=4, starvation=0.1, active="low")
    regions = install_regions(transformer, schedule, GclfSettings("gclf", (1, 1)), (2, 3))

    def sampled() -> Tensor:
        regions.begin(len(LEVELS) - 1)
        both = [regions.within(n, predict) for n, predict in zip(PASSES, predictors(transformer), strict=True)]
        predict = regions.stepping(guided(*both, 2.0))
        return denoise(predict, start(transformer.config.in_channels), LEVELS)

    expected = sampled()
    offload_blocks(transformer, place)
    assert torch.equal(sampled(), expected)
    gather_blocks(transformer)


def test_a_forward_that_fails_leaves_nothing_there(transformer, device, place) -> None:
    """Its blocks go home, and the next pass is as any other."""
    expected = clip(transformer)

    def broken(*_: Any) -> None:
        raise RuntimeError("out of memory")

    for forwards in (0, 1):  # while the order is noted, and when it is known
        offload_blocks(transformer, place)
        for _ in range(forwards):
            clip(transformer, steps=1)
        handle = transformer.blocks[2].ffn.register_forward_pre_hook(broken)
        with pytest.raises(RuntimeError, match="out of memory"):
            clip(transformer)
        handle.remove()
        gather_blocks(transformer)
        assert torch.equal(clip(transformer), expected)
    offload_blocks(transformer, place)
    assert torch.equal(clip(transformer), expected)


@pytest.mark.parametrize("attention", [None, gclf])
def test_compiled_blocks_are_compiled_once(transformer, device, place, monkeypatch, attention: Any) -> None:
    """Under the hooks, which torch.compile does not see: as many graphs as of blocks that stay."""
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda call: compiled(call, backend=backend))
    if attention is not None:
        attention(transformer)
    expected = clip(transformer, steps=2)
    torch._dynamo.reset()
    compile_forwards(transformer)
    for _ in range(2):
        offload_blocks(transformer, place)
        assert torch.equal(clip(transformer, steps=2), expected)
        assert device.most <= 2
        gather_blocks(transformer)
    assert 1 <= len(graphs) <= 2
    torch._dynamo.reset()


@pytest.mark.parametrize("forwards", [0, 2])
def test_a_transformer_that_is_done_with_goes_by_itself(device, place, forwards: int) -> None:
    """Without the garbage collector's help, whatever of its hooks were at work."""
    made = build("wan21")
    gc.collect()
    gc.disable()
    try:
        offload_blocks(made, place)
        for _ in range(forwards):
            clip(made, steps=1)
        gather_blocks(made)
        remove_step_cache(made)
        parts = [weakref.ref(module) for module in made.modules()]
        del made
        assert not any(part() is not None for part in parts)
    finally:
        gc.enable()
