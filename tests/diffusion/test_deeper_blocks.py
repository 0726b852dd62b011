"""GCLF whose deeper blocks pool more, or see the window alone: against a dense mask a layer."""

import copy
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from pydantic import ValidationError
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from tests.dense_gclf import DenseGclf
from vibe_pipeline.diffusion.attention import attention_words, install_gclf, kind_of
from vibe_pipeline.diffusion.attention.geometry import Windows
from vibe_pipeline.diffusion.attention.kinds import Gclf
from vibe_pipeline.diffusion.checkpoint import find_model
from vibe_pipeline.diffusion.flops import keys_by_layer, transformer_flops
from vibe_pipeline.diffusion.rope import Ar, install_rope
from vibe_pipeline.experiment.attention import AttentionParams
from vibe_pipeline.experiment.model import ClipSize
from vibe_pipeline.generation.attention_sizes import require_fitting_attention

GRID, HALF, LAYERS, FROM = (2, 8, 4), (1, 1), 4, 2
TOKENS, WINDOW = 64, 2 * 3 * 3
FLEX = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


def deep(pool: int, kind: str = "gclf", **more: Any) -> AttentionParams:
    """Tiles of 2 x 2 tokens in the first two blocks, others in the two behind."""
    return AttentionParams(**{"kind": kind, "half_window": HALF, "deep_from": FROM, "deep_pool": pool} | more)


@pytest.fixture(scope="module")
def base() -> WanTransformer3DModel:
    torch.manual_seed(0)
    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        text_dim=8,
        freq_dim=16,
        ffn_dim=32,
        num_layers=LAYERS,
    ).eval()


@pytest.fixture
def transformer(base) -> WanTransformer3DModel:
    return copy.deepcopy(base)


def forward(transformer: WanTransformer3DModel) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    latent = torch.randn(2, 4, GRID[0], 2 * GRID[1], 2 * GRID[2], generator=generator)
    return transformer(latent, torch.tensor([300, 800]), torch.randn(2, 5, 8, generator=generator)).sample


def dense(transformer: WanTransformer3DModel, pool: int, half: tuple[int, int] = HALF) -> WanTransformer3DModel:
    """The same weights with a mask in every block: tiles of 2 in the first, of `pool` in those behind."""
    other = copy.deepcopy(transformer)
    for layer, block in enumerate(other.blocks):
        block.attn1.set_processor(DenseGclf(GRID, half, 2 if layer < FROM else pool, None))
    return other


@FLEX
@pytest.mark.parametrize("order", ["thw", "hwt"])
@pytest.mark.parametrize("backend", ["dense", "gather", "flex"])
@pytest.mark.parametrize("pool", [4, 0])
def test_every_block_attends_by_its_own_mask(transformer, pool: int, backend: str, order: str) -> None:
    with torch.no_grad():
        expected, plain = forward(dense(transformer, pool)), forward(dense(transformer, 2))
        installed = install_gclf(transformer, deep(pool), backend=backend, order=order)
        torch.testing.assert_close(forward(transformer), expected, rtol=1e-4, atol=1e-5)
    assert [plan.windows.pool for plan in installed.plans] == [2, 2, pool, pool]
    assert {plan.order for plan in installed.plans} == {order} and len(set(map(id, installed.plans))) == 2
    assert (expected - plain).abs().max() > 1e-3  # the field does something


@FLEX
def test_a_window_over_everything_takes_the_order_of_the_blocks_before(transformer) -> None:
    """By itself it would be SDPA on (t, h, w), where flex has (h, w, t)."""
    with torch.no_grad():
        expected = forward(dense(transformer, 0, half=(8, 4)))
        installed = install_gclf(transformer, deep(0, half_window=(8, 4)), backend="flex")
        torch.testing.assert_close(forward(transformer), expected, rtol=1e-4, atol=1e-5)
    assert [(plan.backend, plan.order) for plan in installed.plans] == [("flex", "hwt")] * 2 + [("dense", "hwt")] * 2


@pytest.mark.parametrize("order", ["thw", "hwt"])
@pytest.mark.parametrize("backend", ["dense", "gather"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_those_of_the_masks(transformer, backend: str, order: str, checkpointing: bool) -> None:
    reference, found = dense(transformer, 4), []
    install_gclf(transformer, deep(4), backend=backend, order=order)
    if checkpointing:
        transformer.enable_gradient_checkpointing()
    for each in (reference, transformer.train()):
        forward(each).square().mean().backward()
        found.append({name: p.grad for name, p in each.named_parameters() if "attn1" in name})
    assert found[0] and all(grad.abs().sum() > 0 for name, grad in found[0].items() if "to_k.bias" not in name)
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-6)


def test_positions_by_tiles_take_the_windows_of_each_block(transformer) -> None:
    """AR-RoPE whose reach is the whole grid turns nothing: what is left are the masks."""
    kind = Ar(tile=(4, 4), reach=(GRID[1], GRID[2]))
    with torch.no_grad():
        expected = forward(dense(transformer, 4))
        install_rope(transformer, kind, (4, 2))
        install_gclf(transformer, deep(4), rope=kind)
        torch.testing.assert_close(forward(transformer), expected, rtol=1e-4, atol=1e-5)


def graphs(transformer: WanTransformer3DModel) -> int:
    torch._dynamo.reset()
    counter = CompileCounter()
    transformer.compile_repeated_blocks(backend=counter)
    with torch.no_grad():
        forward(transformer)
    return counter.frame_count


def test_each_sort_of_block_is_compiled_once(transformer) -> None:
    """Four blocks of two sorts: twice what four of one sort take."""
    plain, other = copy.deepcopy(transformer), copy.deepcopy(transformer)
    install_gclf(plain, AttentionParams(kind="gclf", half_window=HALF), backend="dense")
    with torch.no_grad():
        expected = forward(dense(transformer, 4))
    install_gclf(other, deep(4), backend="dense")
    assert graphs(other) == 2 * graphs(plain)
    with torch.no_grad():
        torch.testing.assert_close(forward(other), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("pool", "coarse"), [(4, TOKENS // 16), (0, 0)])
def test_keys_and_operations_are_counted_by_block(transformer, pool: int, coarse: int) -> None:
    first = WINDOW + TOKENS // 4
    assert keys_by_layer(deep(pool), GRID, None, LAYERS) == [first, first, WINDOW + coarse, WINDOW + coarse]
    text, width = 5, 32
    install_gclf(transformer, deep(pool))
    forward(transformer)
    compared = 2 * first + 2 * (WINDOW + coarse) + LAYERS * text
    assert transformer_flops(transformer, GRID, text).attention_forward == 4 * TOKENS * width * compared
    kernels = [kind_of(deep(pool)).kernels(GRID, None, layer, "cpu") for layer in range(LAYERS)]
    assert kernels[0] == kernels[1] != kernels[2] == kernels[3]


def test_proxies_in_place_of_averages_go_by_block_too() -> None:
    """`proxy` is GCLF with other coarse keys, and has its fields."""
    kind = kind_of(deep(4, "proxy"))
    assert [kind.windows(GRID, None, layer) for layer in (1, 2)] == [
        Windows(GRID, HALF, pool, proxies=True) for pool in (2, 4)
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"kind": "gclf", "deep_from": 2}, "deep_from and deep_pool go together"),
        ({"kind": "gclf", "deep_pool": 4}, "deep_from and deep_pool go together"),
        ({"kind": "gclf", "deep_from": 2, "deep_pool": 1}, "deep_pool 1 would be every key twice"),
        ({"kind": "gclf", "pool": 4, "deep_from": 2, "deep_pool": 4}, "deep_pool 4 is pool itself"),
        ({"kind": "gclf", "deep_from": 0, "deep_pool": 4}, "greater than or equal to 1|greater than 0"),
        ({"kind": "gclf", "deep_from": 2, "deep_pool": -1}, "greater than or equal to 0"),
        ({"kind": "window", "deep_from": 2}, "deep_from belongs to gclf and proxy, not to attention kind 'window'"),
        ({"kind": "freelong", "deep_pool": 4}, "deep_pool belongs to gclf and proxy, not to .* 'freelong'"),
    ],
)
def test_what_says_nothing_is_refused(row: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        AttentionParams(**row)


def test_blocks_that_are_not_there_and_sizes_that_do_not_fit_are_refused(transformer, wan21) -> None:
    with pytest.raises(ValueError, match="deep_from 4: the transformer's last block is 3; give it or less"):
        install_gclf(transformer, deep(4, deep_from=LAYERS))
    with pytest.raises(ValueError, match="deep_from 2: the transformer's last block is 1"):
        keys_by_layer(deep(4), GRID, None, 2)
    model, size = find_model(str(wan21.path)), ClipSize(height=64, width=96, frames=5)  # two blocks, 4 x 6 tokens
    with pytest.raises(ValueError, match=r"^arms\.a\.attention: deep_from 2: the transformer's last block is 1"):
        require_fitting_attention(model, size, deep(0), "arms.a: model.target")
    with pytest.raises(ValueError, match=r"4× from block 1 on, half window 1x1\) .* must be a multiple of 64x64"):
        require_fitting_attention(model, size, deep(4, deep_from=1), "arms.a: model.target")
    require_fitting_attention(model, size, deep(0, deep_from=1), "arms.a: model.target")
    assert Gclf(pool=2, deep_from=1, deep_pool=3).multiples(GRID) == (1, 6, 6)


def test_rows_without_it_are_written_as_before() -> None:
    """Their keys are those of the clips and adapters that are there."""
    plain = {"kind": "gclf", "scale": None, "half_window": None, "pool": 2}
    assert AttentionParams(kind="gclf").model_dump() == plain
    assert AttentionParams().model_dump() == plain | {"kind": "full"}
    assert deep(0).model_dump() == plain | {"half_window": HALF, "deep_from": FROM, "deep_pool": 0}
    assert attention_words(deep(0, half_window=None)) == "gclf (2×, window alone from block 2 on)"
