"""Bytes alive on fake tensors, against the same on real ones."""

from dataclasses import replace

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch import nn

from vibe_pipeline.diffusion.attention import GclfSettings, install_gclf, kind_of
from vibe_pipeline.diffusion.checkpoint import tile_stride
from vibe_pipeline.diffusion.decode import pieces_of
from vibe_pipeline.diffusion.lora import FUSED, add_adapter
from vibe_pipeline.diffusion.rope import Ar
from vibe_pipeline.experiment.attention import AttentionParams
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.experiment.training import LoraParams
from vibe_pipeline.planning import memory
from vibe_pipeline.planning.architecture import Architecture, load_architecture
from vibe_pipeline.planning.costs import Costs
from vibe_pipeline.planning.devices import find_device

GRID, TEXT, LORA = (1, 16, 12), 12, LoraParams(rank=4)


def test_live_bytes_count_what_is_made_and_forget_what_is_gone() -> None:
    given, layer = torch.empty(1000, 1000), nn.Linear(1000, 10, bias=False)
    with torch.no_grad(), memory.LiveBytes([given, *layer.parameters()]) as live:
        out = layer(given.view(1000, 1000))
        assert live.now == out.nbytes == 4 * 1000 * 10
        twice = out * 2
        assert live.now == 2 * out.nbytes
        del twice
        out[:5].add_(1)  # a view and work in place make nothing
    assert (live.now, live.peak) == (out.nbytes, 2 * out.nbytes)


def with_layers(model: Architecture, layers: int) -> tuple[Architecture, WanTransformer3DModel]:
    changed = Architecture(
        model.name, model.source, model.expand_timesteps, dict(model.transformer) | {"num_layers": layers}, model.vae,
        model.text_encoder,
    )  # fmt: skip
    torch.manual_seed(0)
    config = {k: v for k, v in changed.transformer.items() if not k.startswith("_")}
    return changed, WanTransformer3DModel.from_config(config).requires_grad_(False)


def real_inputs(model: Architecture, per_token: bool = False) -> tuple[torch.Tensor, ...]:
    latent = torch.randn(2, model.transformer["in_channels"], 1, GRID[1] * 2, GRID[2] * 2)
    timestep = torch.rand((2, GRID[1] * GRID[2]) if per_token else 2)
    return latent, timestep, torch.randn(2, TEXT, model.transformer["text_dim"])


def real_step(model: Architecture, transformer: WanTransformer3DModel, beside: LoraParams | None) -> int:
    """Peak of a real LoRA step on the CPU, without gradients."""
    if beside is not None:
        add_adapter(transformer, FUSED, beside.rank, beside.alpha, beside.targets, 0)
    add_adapter(transformer, "d", LORA.rank, LORA.alpha, LORA.targets, 0)
    inputs = real_inputs(model)
    given = [*transformer.parameters(), *transformer.buffers(), *inputs]
    with memory.LiveBytes(given) as live, torch.autocast("cpu", torch.bfloat16):
        transformer(*inputs, return_dict=False)[0].float().square().mean().backward()
    return live.peak - sum(p.grad.nbytes for p in transformer.parameters() if p.grad is not None)


@pytest.mark.parametrize("beside", [None, LoraParams(rank=8)])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_training_step_is_foretold_for_any_number_of_blocks(tiny, checkpointing: bool, beside) -> None:
    """Two blocks are run on fake tensors; a real step of six blocks must agree."""
    model, transformer = with_layers(load_architecture(str(tiny.path)), 6)
    if checkpointing:
        transformer.train()
        transformer.enable_gradient_checkpointing()
    real = real_step(model, transformer, beside)
    foretold = memory.training_activations(model, GRID, 2, TEXT, LORA, torch.float32, True, checkpointing, beside)
    # On the high side: two fake blocks keep a little more than later ones add.
    assert 0.99 * real <= foretold <= (1.15 if checkpointing else 1.05) * real


@pytest.mark.parametrize("checkpointing", [False, True])
def test_what_an_attention_kind_copies_is_foretold(tiny, checkpointing: bool) -> None:
    """T3's groups: queries, keys and values of both sorts of boxes are kept for the backward pass, and both outputs."""
    model, transformer = with_layers(load_architecture(str(tiny.path)), 6)
    settings = AttentionParams(kind="t3", groups=[(1, 2, 3), (1, 4, 4)])
    if checkpointing:
        transformer.train()
        transformer.enable_gradient_checkpointing()
    install_gclf(transformer, settings)
    real, copies = real_step(model, transformer, None), kind_of(settings).copies
    plain, foretold = (
        memory.training_activations(model, GRID, 2, TEXT, LORA, torch.float32, True, checkpointing, None, n)
        for n in (0, copies)
    )
    assert 0.99 * real <= foretold <= (1.15 if checkpointing else 1.05) * real
    assert checkpointing or plain < 0.97 * real


@pytest.mark.parametrize("per_token", [False, True])
def test_a_forward_is_foretold_for_any_number_of_blocks(tiny, per_token: bool) -> None:
    model, transformer = with_layers(load_architecture(str(tiny.path)), 5)
    inputs = real_inputs(model, per_token)
    with torch.no_grad(), memory.LiveBytes([*transformer.parameters(), *transformer.buffers(), *inputs]) as live:
        transformer(*inputs, return_dict=False)
    foretold = memory.inference_activations(model, GRID, 2, TEXT, torch.float32, per_token)
    assert foretold == pytest.approx(live.peak, rel=0.02)


@pytest.mark.parametrize("kind", ["full", "window", "gclf"])
def test_what_positions_by_tiles_hold_besides_is_foretold(tiny, kind: str) -> None:
    """A tile's keys stand once more beside q, k and v, whichever of them its queries see; widths as the 5B's."""
    tiny_model = load_architecture(str(tiny.path))
    width = 12 * tiny_model.transformer["attention_head_dim"]
    wide = replace(
        tiny_model, transformer=dict(tiny_model.transformer) | {"num_attention_heads": 12, "ffn_dim": 14 * width // 3}
    )
    model, transformer = with_layers(wide, 2)
    rope = Ar(tile=(8, 6), reach=(12, 9), near=(2, 2))
    install_gclf(transformer, GclfSettings(kind, (4, 3)), (8, 6), rope=rope)
    inputs = tuple(x.bfloat16() for x in real_inputs(model))
    transformer.to(torch.bfloat16).rope.float()  # which `from_pretrained` keeps so
    with torch.no_grad(), memory.LiveBytes([*transformer.parameters(), *transformer.buffers(), *inputs]) as live:
        transformer(*inputs, return_dict=False)
    without, foretold = (
        memory.inference_activations(model, GRID, 2, TEXT, torch.bfloat16, copies=copies) for copies in (0, rope.copies)
    )
    assert without < live.peak <= foretold <= 1.1 * live.peak


@pytest.mark.parametrize(("grid", "saved"), [((31, 44, 80), 12.7), ((31, 68, 120), 29.5)])
def test_one_timestep_a_clip_saves_a_modulation_a_token(grid: tuple[int, int, int], saved: float) -> None:
    """Of the 5B, at 1408x2560x121 and 2176x3840x121: six of the model's width, in 16 bit and once more in 32."""
    model = load_architecture("wan22_ti2v_5b")
    one, many = (memory.inference_activations(model, grid, 1, 512, torch.bfloat16, p) / 1e9 for p in (False, True))
    assert many - one == pytest.approx(saved, abs=0.05)
    assert many - one > 6 * 3072 * (2 + 4) * grid[0] * grid[1] * grid[2] / 1e9


def test_checkpointing_saves_most_of_the_large_models_activations() -> None:
    model = load_architecture("wan22_ti2v_5b")
    grid = (1, 48, 86)
    plain, checkpointed = (
        memory.training_activations(model, grid, 1, 512, LoraParams(), torch.bfloat16, True, c) for c in (False, True)
    )
    # Each of 30 blocks keeps at least inputs of its ten adapted layers: nine of 3072 numbers and one of 14336, 16 bit.
    assert plain > 30 * 4128 * 2 * (9 * 3072 + 14336)
    assert checkpointed < plain / 8


def test_tiles_bound_the_vaes_memory() -> None:
    model = load_architecture("wan21_t2v_1_3b")
    latent = (model.vae["z_dim"], 2, 136, 240)
    for decode in (True, False):
        whole, tiled = (memory.vae_activations(model, latent, t, torch.float32, decode) for t in (None, 512))
        assert tiled < whole / 3


def test_what_is_decoded_in_tiles_leaves_and_only_strips_stay(wan22) -> None:
    """Foretold from one tile and the strips, against the bytes alive while a whole clip of six tiles is decoded."""
    model = load_architecture(str(wan22.path))
    space = model.vae["scale_factor_spatial"]
    frames, tile = 4, 4 * space
    latent = (model.vae["z_dim"], frames, 7, 6)
    vae = model.build_vae().to_empty(device="cpu")
    vae.enable_tiling(tile, tile, *2 * [tile_stride(model.vae, tile)])
    x = torch.zeros(1, *latent)
    with torch.no_grad(), memory.LiveBytes([*vae.parameters(), *vae.buffers(), x]) as live:
        for _ in pieces_of(vae, x):
            pass
    foretold = memory.vae_activations(model, latent, tile, torch.float32, decode=True)
    assert live.peak <= foretold < 1.2 * live.peak


def test_a_large_clip_is_never_whole_on_the_device_when_it_is_decoded() -> None:
    """At 2176x3840x121 in 32 bit: 63.7 GB when diffusers joined the clip there, which is 12.1 GB a copy."""
    model = load_architecture("wan22_ti2v_5b")
    latent = (model.vae["z_dim"], 31, 136, 240)
    assert memory.vae_activations(model, latent, 512, torch.float32, decode=True) < 7e9


def test_a_quantised_base_holds_its_bytes_and_the_largest_layer_once_more() -> None:
    """The 5B: ten linear layers in each of 30 blocks; a fused stage 1 stands beside, as it cannot be taken up."""
    size = {"height": 704, "width": 1280, "frames": 121}
    made = {
        kind: Costs(
            architecture=load_architecture("wan22_ti2v_5b"),
            model=ModelParams(path="x", native=size, target=size, dtype=dtype, quantisation=kind),
            device=find_device("h100"),
        )
        for kind, dtype in (
            (None, "bfloat16"),
            ("int8", "bfloat16"),
            ("fp8", "float32"),
            ("fp8_cast", "bfloat16"),
            ("nf4", "bfloat16"),
        )
    }
    width, inner = 3072, 14336
    numbers, rows = 30 * (8 * width**2 + 2 * width * inner), 30 * (9 * width + inner)
    held = {kind: costs.weights("transformer") for kind, costs in made.items()}
    assert held[None] - held["int8"] == numbers - 2 * rows - 2 * width * inner
    assert held[None] == pytest.approx(10.0e9, rel=0.002) and held["int8"] == pytest.approx(5.18e9, rel=0.002)
    assert held["int8"] - held["fp8_cast"] == 2 * rows  # without scales
    assert held["fp8_cast"] - held["nf4"] == (1 - 0.5 - 4 / 64) * numbers  # a scale of 32 bit for 64 numbers
    assert made["fp8"].beside(LORA) == (LORA,)  # 32 bit alone would have taken it up
