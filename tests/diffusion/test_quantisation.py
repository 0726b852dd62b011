"""A frozen base in 8 bit against the same base with the numbers that the bytes stand for. Needs torchao."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vibe_pipeline.diffusion import lora
from vibe_pipeline.diffusion.models import find_model, load_transformer
from vibe_pipeline.diffusion.quantisation import QUANTISATIONS, holds_plain_numbers, is_quantised

CPU = torch.device("cpu")
KINDS = sorted(QUANTISATIONS)


@pytest.fixture(autouse=True)
def _torchao() -> None:
    pytest.importorskip("torchao", reason="model.quantisation needs the extra torchao")


def run(transformer, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(1, transformer.config.in_channels, 2, 4, 4, generator=generator).to(dtype)
    text = torch.randn(1, 6, transformer.config.text_dim, generator=generator).to(dtype)
    return transformer(x, torch.tensor([500.0]), text, return_dict=False)[0]


def filled(transformer, name: str, seed: int) -> None:
    lora.add_adapter(transformer, name, 4, 8.0, ("to_q", "to_v", "ffn.net.2"), seed)
    generator = torch.Generator().manual_seed(seed)
    state = {
        k: 0.1 * torch.randn(v.shape, generator=generator) for k, v in lora.adapter_state(transformer, name).items()
    }
    lora.set_adapter_state(transformer, name, state)


@pytest.fixture
def pair(wan21) -> Callable[[str], tuple]:
    """The tiny transformer quantised, and one of 32 bit with the numbers that its bytes stand for."""

    def make(kind: str) -> tuple:
        found = find_model(str(wan21.path))
        small, plain = load_transformer(found, CPU, torch.float32, quantisation=kind), wan21.transformer()
        theirs = dict(small.named_parameters())
        for name, weight in plain.named_parameters():
            other = theirs[name]
            weight.data = other.data if holds_plain_numbers(other) else other.data.dequantize()
        return small, plain

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_alone_hold_bytes_whose_numbers_are_near(wan21, pair, kind: str) -> None:
    small, plain = pair(kind)
    original = dict(wan21.transformer().named_modules())
    seen = 0
    for name, module in small.named_modules():
        if isinstance(module, torch.nn.Linear):
            assert (
                holds_plain_numbers(module.weight)
                == (not is_quantised(module, name))
                == (not name.startswith("blocks."))
            )
            if is_quantised(module, name):
                seen += 1
                error = module.weight.data.dequantize() - original[name].weight
                assert 0 < float(error.norm() / original[name].weight.norm()) < {"int8": 0.01, "fp8": 0.04}[kind]
    assert seen == 2 * 10
    torch.testing.assert_close(run(small), run(plain), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_the_adapter_through_the_quantised_base(pair, kind: str) -> None:
    """Those of the first block pass through every quantised layer of the second."""
    gradients = []
    for transformer in pair(kind):
        filled(transformer, "own", 1)
        run(transformer).square().mean().backward()
        own = lora.adapter_parameters(transformer, "own")
        assert {n for n, p in transformer.named_parameters() if p.requires_grad} == own.keys()
        gradients.append({k.split("own")[0]: p.grad for k, p in own.items()})
    for name, gradient in gradients[1].items():
        assert float(gradient.norm()) > 0
        torch.testing.assert_close(gradients[0][name], gradient, rtol=1e-4, atol=1e-4 * float(gradient.abs().max()))


@pytest.mark.parametrize("kind", KINDS)
def test_only_bytes_are_kept_for_the_backward_pass(pair, kind: str) -> None:
    """A plain copy of every quantised weight would be as much memory as quantising saves."""
    kept: list[list[int]] = []
    for transformer in pair(kind):
        filled(transformer, "own", 1)
        frozen = {tuple(p.shape) for n, p in transformer.named_parameters() if n.startswith("blocks.") and p.ndim == 2}
        frozen -= {tuple(p.shape) for p in lora.adapter_parameters(transformer, "own").values()}
        frozen |= {shape[::-1] for shape in frozen}
        own: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, own=own, frozen=frozen: own.append(t.nbytes) or t if tuple(t.shape) in frozen else t, lambda t: t
        ):
            run(transformer)
        kept.append(own)
    assert kept[0] == [] and len(kept[1]) > 10


@pytest.mark.parametrize("kind", KINDS)
def test_a_fused_stage_1_stands_beside_and_loses_nothing(pair, tmp_path: Path, kind: str) -> None:
    """W0 x + D1 x + D2 x, on bytes for W0 that are left as they were: as when both are fused into 32 bit."""
    small, plain = pair(kind)
    filled(plain, "d1", 1)
    path = lora.save_adapter(plain, "d1", tmp_path / "d1")
    plain.delete_adapters(["d1"])
    before = small.blocks[0].attn1.to_q.weight.data.dequantize().clone()
    for transformer in (small, plain):
        lora.fuse_adapter(transformer, path)
        filled(transformer, "d2", 2)
    torch.testing.assert_close(run(small), run(plain), rtol=1e-4, atol=1e-5)
    layer = small.blocks[0].attn1.to_q
    assert torch.equal(layer.get_base_layer().weight.data.dequantize(), before)
    assert not any(p.requires_grad for p in lora.adapter_parameters(small, lora.FUSED).values())
    written = [lora.save_adapter(t, "d2", tmp_path / str(i)).read_bytes() for i, t in enumerate((small, plain))]
    assert written[0] == written[1]  # the export knows nothing of the base's bytes


def test_16_bit_and_autocast_compute_in_their_type(wan21) -> None:
    found = find_model(str(wan21.path))
    half = load_transformer(found, CPU, torch.bfloat16, quantisation="int8")
    filled(half, "own", 1)
    assert run(half, torch.bfloat16).dtype == torch.bfloat16
    whole = load_transformer(found, CPU, torch.float32, quantisation="int8")
    filled(whole, "own", 1)
    expected = run(whole)
    with torch.autocast("cpu", torch.bfloat16):
        out = run(whole)
        out.float().square().mean().backward()
    assert float((out.float() - expected).norm() / expected.norm()) < 0.05
    assert all(float(p.grad.norm()) > 0 for p in lora.adapter_parameters(whole, "own").values())
