"""GCLF inside a tiny Wan transformer: installing, removing, token order, LoRA, checkpointing."""

import copy

import pytest
import torch
from torch._dynamo.testing import CompileCounter

import vibe_pipeline  # noqa: F401  before diffusers: it makes torchvision importable

from diffusers import WanTransformer3DModel  # isort: skip
from peft import LoraConfig  # isort: skip

from vibe_pipeline.diffusion.attention import GclfAttnProcessor, GclfSettings, install_gclf, remove_gclf
from vibe_pipeline.experiment.attention import AttentionParams

LATENT = (3, 8, 12)  # frames, height, width: a token grid of (3, 4, 6)
SETTINGS = GclfSettings(half_window=(1, 2), pool=2)


@pytest.fixture(scope="module")
def base():
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
        num_layers=2,
    ).eval()


@pytest.fixture
def transformer(base):
    return copy.deepcopy(base)


def inputs(latent=LATENT, per_token=False):
    generator = torch.Generator().manual_seed(1)
    tokens = latent[0] * latent[1] * latent[2] // 4
    steps = torch.randint(0, 1000, (2, tokens) if per_token else (2,), generator=generator)
    return {
        "hidden_states": torch.randn(2, 4, *latent, generator=generator),
        "timestep": steps,
        "encoder_hidden_states": torch.randn(2, 5, 8, generator=generator),
    }


def run(transformer, **kwargs):
    with torch.no_grad():
        return transformer(**inputs(**kwargs)).sample


@pytest.mark.parametrize("per_token", [False, True])
def test_remove_restores_the_output_bit_for_bit(transformer, per_token):
    before = run(transformer, per_token=per_token)
    processors = list(transformer.attn_processors.values())
    install_gclf(transformer, SETTINGS, order="hwt")
    assert not torch.allclose(run(transformer, per_token=per_token), before)
    assert remove_gclf(transformer)
    assert torch.equal(run(transformer, per_token=per_token), before)
    assert all(a is b for a, b in zip(transformer.attn_processors.values(), processors, strict=True))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in transformer.modules())
    assert not remove_gclf(transformer)


def test_only_self_attention_is_replaced(transformer):
    install_gclf(transformer, SETTINGS)
    for name, processor in transformer.attn_processors.items():
        assert isinstance(processor, GclfAttnProcessor) == ("attn1" in name)


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("order", ["thw", "hwt"])
@pytest.mark.parametrize("backend", ["dense", "gather"])
def test_a_window_over_everything_is_the_original_model(transformer, backend, order, per_token):
    """Checks projections, RoPE and both permutations against diffusers' own attention."""
    before = run(transformer, per_token=per_token)
    install_gclf(transformer, GclfSettings(kind="window", half_window=(4, 6)), backend=backend, order=order)
    torch.testing.assert_close(run(transformer, per_token=per_token), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("backend", ["dense", "gather", "flex"])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_reordered_tokens_equal_original_order(transformer, backend, per_token):
    install_gclf(transformer, SETTINGS, backend="dense", order="thw")
    plain = run(transformer, per_token=per_token)
    installed = install_gclf(transformer, SETTINGS, backend=backend, order="hwt")
    torch.testing.assert_close(run(transformer, per_token=per_token), plain, rtol=1e-4, atol=1e-5)
    assert installed.plan.windows.order == "hwt"


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_chooses_the_reordered_tokens(transformer):
    installed = install_gclf(transformer, SETTINGS, backend="flex")
    run(transformer)
    assert installed.plan.windows.order == "hwt"


def test_plans_are_built_once_per_grid(transformer):
    installed = install_gclf(transformer, SETTINGS)
    run(transformer)
    first = installed.plan
    run(transformer, latent=(1, 16, 8))
    assert installed.plan.windows.grid == (1, 8, 4)
    run(transformer)
    assert installed.plan is first
    assert installed.prepare((3, 4, 6), "cpu")[0] is first


def test_a_grid_that_does_not_divide_by_the_pooling(transformer):
    install_gclf(transformer, SETTINGS)
    with pytest.raises(ValueError, match=r"\(3, 5, 6\) does not divide by pool 2: height 5 tokens"):
        run(transformer, latent=(3, 10, 12))


def loss_and_gradients(transformer, checkpointing):
    transformer.gradient_checkpointing = False
    if checkpointing:
        transformer.enable_gradient_checkpointing()
    transformer.zero_grad()
    loss = transformer.train()(**inputs()).sample.square().mean()
    loss.backward()
    return loss, {n: p.grad.clone() for n, p in transformer.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("order", ["thw", "hwt"])
def test_lora_trains_with_and_without_checkpointing(transformer, order):
    targets = ["to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2"]
    transformer.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=targets, init_lora_weights=False))
    before = run(transformer)
    results = []
    for backend, checkpointing in (("dense", False), ("gather", False), ("gather", True)):
        install_gclf(transformer, SETTINGS, backend=backend, order=order)
        results.append(loss_and_gradients(transformer, checkpointing))
    for loss, grads in results[1:]:
        torch.testing.assert_close(loss, results[0][0])
        assert len(grads) == 2 * 2 * 10
        assert all(g.abs().sum() > 0 for n, g in grads.items())
        torch.testing.assert_close(grads, results[0][1], rtol=1e-3, atol=1e-6)
    remove_gclf(transformer)
    assert torch.equal(run(transformer.eval()), before)


def test_a_module_wrapped_after_installing_is_refused(transformer):
    install_gclf(transformer, SETTINGS, order="hwt")
    transformer.add_adapter(LoraConfig(r=2, target_modules=["proj_out"]))
    with pytest.raises(RuntimeError, match="proj_out was replaced after install_gclf"):
        run(transformer)
    install_gclf(transformer, SETTINGS, order="hwt")
    run(transformer)


def test_fused_projections(transformer):
    install_gclf(transformer, SETTINGS)
    plain = run(transformer)
    transformer.fuse_qkv_projections()
    torch.testing.assert_close(run(transformer), plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", ["dense", "gather"])
def test_compiled_transformer_equals_eager(transformer, backend):
    install_gclf(transformer, SETTINGS, backend=backend, order="hwt")
    plain = run(transformer)
    compiled = torch.compile(transformer, backend="eager")
    torch.testing.assert_close(run(compiled), plain, rtol=1e-4, atol=1e-5)


def test_config_parameters_fit_and_native_grid_gives_the_window(transformer):
    params = AttentionParams(kind="gclf", pool=2)
    with pytest.raises(ValueError, match="give native_grid"):
        install_gclf(transformer, params)
    installed = install_gclf(transformer, params, native_grid=(2, 5))
    run(transformer)
    assert installed.plan.windows.half_window == (1, 2)


def test_full_attention_needs_nothing_but_a_scale_does(transformer):
    before = run(transformer)
    install_gclf(transformer, SETTINGS)
    assert install_gclf(transformer, GclfSettings(kind="full")) is None
    assert torch.equal(run(transformer), before)
    install_gclf(transformer, GclfSettings(kind="full", scale=16**-0.5))
    torch.testing.assert_close(run(transformer), before, rtol=1e-4, atol=1e-5)
    install_gclf(transformer, GclfSettings(kind="full", scale=0.01))
    assert not torch.allclose(run(transformer), before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "sparse"}, "unknown attention kind 'sparse'"),
        ({"half_window": (1, 0)}, r"not \(1, 0\)"),
        ({"pool": 0}, "use kind 'window'"),
    ],
)
def test_wrong_settings_are_refused_at_once(transformer, change, message):
    with pytest.raises(ValueError, match=message):
        install_gclf(transformer, GclfSettings(**{"half_window": (1, 2)} | change))
    for name in ("backend", "order"):
        with pytest.raises(ValueError, match="'nonsense'"):
            install_gclf(transformer, SETTINGS, **{name: "nonsense"})


def test_a_window_from_the_native_grid_turns_with_upright_images(transformer):
    landscape = install_gclf(transformer, GclfSettings(kind="window"), native_grid=(4, 8), backend="dense")
    assert landscape.prepare((1, 8, 16), "cpu")[0].windows.half_window == (2, 4)
    assert landscape.prepare((1, 16, 8), "cpu")[0].windows.half_window == (4, 2)
    given = install_gclf(transformer, GclfSettings(kind="window", half_window=(2, 4)), backend="dense")
    assert given.prepare((1, 16, 8), "cpu")[0].windows.half_window == (2, 4)


def graphs_of(transformer):
    """How many graphs torch.compile makes of the blocks, each of which it compiles by itself."""
    torch._dynamo.reset()
    counter = CompileCounter()
    transformer.compile_repeated_blocks(backend=counter)
    run(transformer)
    return counter.frame_count


def test_blocks_with_the_same_attention_are_compiled_once(transformer):
    """Past eight, torch runs the other blocks uncompiled, without an error."""
    assert len(transformer.blocks) > 1
    plain = graphs_of(copy.deepcopy(transformer))
    install_gclf(transformer, SETTINGS, backend="dense")
    assert graphs_of(transformer) == plain
