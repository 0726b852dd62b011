"""A frozen base in 8 or 4 bit against the same base with the numbers that the bytes stand for, where its package is."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers.hooks.layerwise_casting import apply_layerwise_casting_hook
from torch import Tensor

from vibe_pipeline.diffusion import lora
from vibe_pipeline.diffusion.models import find_model, load_transformer
from vibe_pipeline.diffusion.quantisation import QUANTISATIONS, holds_plain_numbers, is_quantised, package_of
from vibe_pipeline.diffusion.quantised_linear import Fp8CastLinear, Nf4Linear

CPU = torch.device("cpu")
KINDS = sorted(QUANTISATIONS)
NEAR = {"int8": 0.01, "fp8": 0.04, "fp8_cast": 0.04, "nf4": 0.11}
"""Error of the weights, relative to them."""
LEVELS = (-1, -0.69619, -0.52507, -0.39492, -0.28444, -0.18477, -0.09105, 0)
LEVELS += (0.07958, 0.16093, 0.24611, 0.33792, 0.44071, 0.56262, 0.72296, 1)  # NF4's, of QLoRA's appendix E


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    """A kind whose package is here; fp8_cast needs none."""
    package, _ = package_of(request.param)
    if package:
        pytest.importorskip(package, reason=f"model.quantisation needs the extra {package}")
    return request.param


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
        theirs = dict(small.named_modules())
        for name, module in plain.named_modules():
            if is_quantised(module, name):
                module.weight.data = theirs[name].numbers()
        return small, plain

    return make


@pytest.mark.parametrize("kind", KINDS, indirect=True)
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
                error = module.numbers() - original[name].weight
                assert 0 < float(error.norm() / original[name].weight.norm()) < NEAR[kind]
    assert seen == 2 * 10
    torch.testing.assert_close(run(small), run(plain), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS, indirect=True)
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


@pytest.mark.parametrize("kind", KINDS, indirect=True)
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


@pytest.mark.parametrize("kind", KINDS, indirect=True)
def test_a_fused_stage_1_stands_beside_and_loses_nothing(pair, tmp_path: Path, kind: str) -> None:
    """W0 x + D1 x + D2 x, on bytes for W0 that are left as they were: as when both are fused into 32 bit."""
    small, plain = pair(kind)
    filled(plain, "d1", 1)
    path = lora.save_adapter(plain, "d1", tmp_path / "d1")
    plain.delete_adapters(["d1"])
    before = small.blocks[0].attn1.to_q.numbers().clone()
    for transformer in (small, plain):
        lora.fuse_adapter(transformer, path)
        filled(transformer, "d2", 2)
    torch.testing.assert_close(run(small), run(plain), rtol=1e-4, atol=1e-5)
    layer = small.blocks[0].attn1.to_q
    assert torch.equal(layer.get_base_layer().numbers(), before)
    assert not any(p.requires_grad for p in lora.adapter_parameters(small, lora.FUSED).values())
    written = [lora.save_adapter(t, "d2", tmp_path / str(i)).read_bytes() for i, t in enumerate((small, plain))]
    assert written[0] == written[1]  # the export knows nothing of the base's bytes


@pytest.mark.parametrize("kind", KINDS, indirect=True)
def test_16_bit_and_autocast_compute_in_their_type(wan21, tmp_path: Path, kind: str) -> None:
    found = find_model(str(wan21.path))
    half = load_transformer(found, CPU, torch.bfloat16, quantisation=kind)
    filled(half, "own", 1)
    assert run(half, torch.bfloat16).dtype == torch.bfloat16
    lora.load_adapter(half, lora.save_adapter(half, "own", tmp_path), "loaded")
    assert {p.dtype for p in lora.adapter_parameters(half, "loaded").values()} == {torch.bfloat16}
    whole = load_transformer(found, CPU, torch.float32, quantisation=kind)
    filled(whole, "own", 1)
    expected = run(whole)
    with torch.autocast("cpu", torch.bfloat16):
        out = run(whole)
        out.float().square().mean().backward()
    assert float((out.float() - expected).norm() / expected.norm()) < 0.05
    assert all(float(p.grad.norm()) > 0 for p in lora.adapter_parameters(whole, "own").values())


@pytest.mark.parametrize("kind", KINDS, indirect=True)
def test_what_it_costs_a_clip_is_little_and_what_it_holds_is_what_the_plan_says(wan21, kind: str) -> None:
    found = find_model(str(wan21.path))
    small, plain = load_transformer(found, CPU, torch.bfloat16, quantisation=kind), wan21.transformer()
    wanted = run(plain)
    error = float((run(small, torch.bfloat16).float() - wanted).norm() / wanted.norm())
    assert error < {"int8": 0.02, "fp8": 0.06, "fp8_cast": 0.06, "nf4": 0.2}[kind]
    if kind in ("fp8_cast", "nf4"):  # torchao's tensors do not say what they take
        layers = [m for n, m in small.named_modules() if is_quantised(m, n)]
        held = sum(m.weight.nbytes + getattr(m, "scales", m.weight[:0]).nbytes for m in layers)
        assert held == QUANTISATIONS[kind].number_bytes * sum(m.out_features * m.in_features for m in layers)
        before = [layer.numbers() for layer in layers]
        small.to(torch.bfloat16)  # types of numbers are no business of bytes
        assert all(torch.equal(layer.numbers(), numbers) for layer, numbers in zip(layers, before, strict=True))


def test_fp8_cast_is_diffusers_layerwise_casting(wan21) -> None:
    """The same clip to the bit; and unlike its hooks, which put other weights in place, it can be trained through."""
    ours = load_transformer(find_model(str(wan21.path)), CPU, torch.float32, quantisation="fp8_cast")
    theirs = wan21.transformer()
    for name, module in theirs.named_modules():
        if is_quantised(module, name):
            apply_layerwise_casting_hook(module, torch.float8_e4m3fn, torch.float32, non_blocking=False)
            module.bias.data = dict(ours.named_parameters())[f"{name}.bias"].data  # they cast biases too
    layer, other = ours.blocks[0].ffn.net[2], theirs.blocks[0].ffn.net[2]
    assert torch.equal(layer.numbers(), other.weight.float())
    with torch.no_grad():
        x = torch.randn(5, 48, generator=torch.Generator().manual_seed(1))
        expected = torch.nn.functional.linear(x, other.weight.float(), layer.bias)
        assert torch.equal(layer(x), expected)
    with pytest.raises(ValueError, match="fp8_cast holds numbers up to 448, and a weight is 500: use fp8"):
        Fp8CastLinear.of(linear_of(torch.full((2, 64), 500.0)))


def linear_of(weight: Tensor) -> torch.nn.Linear:
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data = weight
    return layer


@pytest.mark.parametrize("shape", [(64, 64), (48, 32), (6, 32), (128, 192)])
@pytest.mark.parametrize("kind", ["nf4"], indirect=True)
def test_nf4_is_the_nearest_of_its_levels(kind: str, shape: tuple[int, int]) -> None:
    """By hand: blocks of 64 numbers, each by its largest; where a row is no multiple of 64 too."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    blocks = weight.reshape(-1, 64)
    most = blocks.abs().amax(1, keepdim=True)
    levels = torch.tensor(LEVELS)
    by_hand = (levels[((blocks / most)[..., None] - levels).abs().argmin(-1)] * most).reshape(shape)
    torch.testing.assert_close(Nf4Linear.of(linear_of(weight)).numbers(), by_hand, rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match=r"scale for 64 numbers, and a layer of \(3, 20\) does not divide"):
        Nf4Linear.of(linear_of(torch.ones(3, 20)))
