"""The one count of operations: torch's own counter on the real modules, and METHOD's table of limits."""

import math
from dataclasses import replace

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vibe_pipeline.diffusion import flops, lora, module_flops
from vibe_pipeline.diffusion.attention import install_gclf
from vibe_pipeline.diffusion.flops import AdapterLayers, adapter_layers, count_flops, keys_by_layer, transformer_flops
from vibe_pipeline.diffusion.models import velocity_predictor
from vibe_pipeline.experiment.attention import AttentionParams
from vibe_pipeline.experiment.model import ClipSize
from vibe_pipeline.experiment.training import LoraParams
from vibe_pipeline.planning.architecture import Architecture, load_architecture

PEAK = 700e12  # of the paper's method notes, section 8
SMALL, LARGE = "wan21_t2v_1_3b", "wan22_ti2v_5b"
GRID, TEXT = (1, 4, 6), 12
ALL = LoraParams().targets


@pytest.fixture(scope="module")
def models() -> dict[str, Architecture]:
    return {name: load_architecture(name) for name in (SMALL, LARGE)}


def counted(transformer: WanTransformer3DModel, style: str) -> tuple[dict[str, int], dict[str, int]]:
    """Operations by kind, of the forward and of the backward, as torch sees them executed."""
    latent = torch.randn(1, transformer.config.in_channels, 1, 8, 12)
    predict = velocity_predictor(transformer, torch.randn(1, TEXT, 64), style == "wan22", torch.float32)
    with sdpa_kernel(SDPBackend.MATH):  # else attention is one operation that the counter does not know on the CPU
        with FlopCounterMode(display=False) as forward:
            loss = predict(latent, torch.tensor([0.5])).square().mean()
        with FlopCounterMode(display=False) as backward:
            loss.backward()

    def by_kind(counter: FlopCounterMode) -> dict[str, int]:
        total = counter.get_flop_counts()["Global"]
        attention = sum(n for op, n in total.items() if "bmm" in str(op))
        return {"linear": sum(total.values()) - attention, "attention": attention}

    return by_kind(forward), by_kind(backward)


TARGETS = [ALL, ("attn2.to_k",), ("blocks.1.ffn.net.2",), ("to_out.0",), ("blocks.1.attn1.to_q",), ("proj_out",)]


@pytest.mark.parametrize("targets", TARGETS)
def test_the_count_is_that_of_torch(tiny, targets: tuple[str, ...]) -> None:
    """Exactly, whatever is trained. Attention backwards is 2.5 of forwards in the fused kernels, which compute the
    scores again and every gradient; torch's plain one costs 2, and less where some gradients are not needed."""
    transformer = tiny.transformer()
    lora.add_adapter(transformer, "d", 4, 4, targets, 0)
    ours = transformer_flops(transformer, GRID, TEXT)
    forward, backward = counted(transformer, "wan22" if tiny.token != 16 else "wan21")
    assert ours.linear_forward == forward["linear"]
    assert ours.linear_backward == backward["linear"]
    assert ours.attention_forward == forward["attention"]
    plain = backward["attention"] * flops.BACKWARD_ATTENTION / 2
    assert ours.attention_backward == plain if targets == ALL else ours.attention_backward >= plain


@pytest.mark.parametrize("targets", TARGETS)
def test_the_plan_from_the_configuration_is_the_training_logs_from_the_modules(tiny, targets: tuple[str, ...]) -> None:
    """The same adapter, a frozen stage 1 beside the weights, and the attention that is installed, in every number."""
    transformer, settings = tiny.transformer(), AttentionParams(kind="gclf", half_window=(1, 2), pool=2)
    lora.add_adapter(transformer, lora.FUSED, 6, 4, ALL, 0)
    lora.add_adapter(transformer, "d", 4, 4, targets, 0)
    install_gclf(transformer, settings)
    config = load_architecture(str(tiny.path)).transformer
    beside, trained = adapter_layers(config, ALL, 6), replace(adapter_layers(config, targets, 4), trained=True)
    keys = keys_by_layer(settings, GRID, None, config["num_layers"])
    planned = count_flops(config, GRID, TEXT, keys, [beside, trained])
    assert planned == transformer_flops(transformer, GRID, TEXT)
    assert planned.forward > count_flops(config, GRID, TEXT, keys, [trained]).forward


def test_a_frozen_stage_1_beside_the_weights_is_counted_without_its_weights_gradients(wan21) -> None:
    transformer = wan21.transformer()
    alone = wan21.transformer()
    lora.add_adapter(alone, "d", 4, 4, ("blocks.1.ffn.net.2", "blocks.1.attn1.to_v"), 0)
    lora.add_adapter(transformer, lora.FUSED, 6, 4, ALL, 0)
    lora.add_adapter(transformer, "d", 4, 4, ("blocks.1.ffn.net.2", "blocks.1.attn1.to_v"), 0)
    ours = transformer_flops(transformer, GRID, TEXT)
    forward, backward = counted(transformer, "wan21")
    assert (ours.linear_forward, ours.linear_backward) == (forward["linear"], backward["linear"])
    assert ours.linear_forward > transformer_flops(alone, GRID, TEXT).linear_forward


def test_windowed_attention_counts_the_keys_a_query_sees(wan21) -> None:
    transformer = wan21.transformer()
    lora.add_adapter(transformer, "d", 4, 4, ALL, 0)
    full = transformer_flops(transformer, GRID, TEXT)
    for kind, keys in (("window", 3 * 5), ("gclf", 3 * 5 + 2 * 3)):
        install_gclf(transformer, AttentionParams(kind=kind, half_window=(1, 2), pool=2))
        seen = transformer_flops(transformer, GRID, TEXT)
        assert seen.attention_forward == pytest.approx(full.attention_forward * (keys + TEXT) / (24 + TEXT))
        assert seen.linear_forward == full.linear_forward


@pytest.mark.parametrize("name", [SMALL, LARGE])
def test_layers_are_those_of_the_real_transformers(models, name: str) -> None:
    model = models[name]
    modules = {n: m for n, m in model.build_transformer().named_modules() if isinstance(m, torch.nn.Linear)}
    shapes = {n: (m.in_features, m.out_features) for n, m in modules.items()}
    assert flops.linear_layers(model.transformer) == shapes
    assert len(adapter_layers(model.transformer, ALL, 32).layers) == 300
    with pytest.raises(ValueError, match=r"lora\.targets \['to_z'\] match no linear layer"):
        adapter_layers(model.transformer, ("to_z",), 32)


# model, height, width, frames, tokens, linear and attention TFLOP, then seconds: forward, step, step with
# checkpointing, 50 steps with guidance
TABLE = [
    (SMALL, 2048, 2048, 1, 16_384, 41, 51, 0.132, 0.37, None, None),
    (LARGE, 1536, 2752, 1, 4_128, 36, 7, 0.062, 0.139, 0.202, None),
    (LARGE, 704, 1280, 121, 27_280, 237, 279, 0.74, None, None, 74),
    (LARGE, 1408, 2560, 121, 109_120, 948, 4_410, 7.65, None, None, 765),
    (LARGE, 2176, 3840, 121, 252_960, 2_197, 23_637, 36.9, None, None, 3_691),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda r: f"{r[0]}-{r[1]}x{r[2]}x{r[3]}")
def test_the_table_of_limits_is_met_within_5_percent(models, row) -> None:
    name, height, width, frames, tokens, linear, attention, forward, step, checkpointed, fifty = row
    model = models[name]
    grid = model.grid(ClipSize(height=height, width=width, frames=frames))
    assert math.prod(grid) == tokens
    found = count_flops(model.transformer, grid, 512, per_token=model.expand_timesteps)
    # A gradient through everything, by an adapter at the start that costs nothing.
    start = AdapterLayers({"blocks.0.attn1.to_q": (0, 0, 0)}, trained=True)
    learning = count_flops(model.transformer, grid, 512, adapters=[start])
    pairs = [(found.linear_forward / 1e12, linear), (found.attention_forward / 1e12, attention)]
    pairs += [(found.total / PEAK, forward), (learning.total / PEAK, step)]
    pairs += [((learning.total + learning.forward) / PEAK, checkpointed), (100 * found.total / PEAK, fifty)]
    for ours, theirs in pairs:
        assert theirs is None or ours == pytest.approx(theirs, rel=0.05)


def test_side_costs_of_the_vae_are_met_within_5_percent(models) -> None:
    vae = module_flops.VaeFlops(models[LARGE].vae, tile=None)
    image, clip = ClipSize(height=2048, width=2048), ClipSize(height=1408, width=2560, frames=121)
    assert vae.encode(models[LARGE].latent(image)) / 1e12 == pytest.approx(20, rel=0.05)
    assert vae.decode(models[LARGE].latent(clip)) / 1e12 == pytest.approx(8190, rel=0.05)


def test_the_text_encoder_is_what_its_layers_cost(models) -> None:
    """Without its table of 256,384 embeddings, which is looked up and costs no operation."""
    assert models[LARGE].parameters["text_encoder"] == 5_680_910_336
    layer = 4 * 4096 * 4096 + 3 * 4096 * 10240
    by_hand = 24 * (2 * 512 * layer + 4 * 512 * 512 * 4096)
    assert module_flops.text_flops(models[LARGE].text_encoder, 512) == by_hand
    with_table = 2 * 512 * models[LARGE].parameters["text_encoder"]
    assert with_table / 1e12 == pytest.approx(5.8, rel=0.05)


def transformer_call(model: Architecture, latent: tuple[int, int, int], text: int) -> float:
    """torch's counter on the transformer itself."""
    config = model.transformer
    tokens = math.prod(n // p for n, p in zip(latent, config["patch_size"], strict=True))
    timestep = torch.empty((1, tokens) if model.expand_timesteps else 1, device="meta")
    inputs = (torch.empty(1, config["in_channels"], *latent, device="meta"), timestep)
    return module_flops.counted(
        model.build_transformer(), *inputs, torch.empty(1, text, config["text_dim"], device="meta")
    )


@pytest.mark.parametrize(("name", "latent"), [(SMALL, (1, 64, 48)), (LARGE, (3, 44, 80))])
def test_the_formula_equals_torchs_counter_on_the_real_transformers(models, name: str, latent) -> None:
    model = models[name]
    grid = tuple(n // p for n, p in zip(latent, model.transformer["patch_size"], strict=True))
    formula = count_flops(model.transformer, grid, 512, per_token=model.expand_timesteps).total
    assert formula == transformer_call(model, latent, 512)


def test_the_formula_equals_torchs_counter_on_the_tiny_transformers(tiny) -> None:
    model = load_architecture(str(tiny.path))
    formula = count_flops(model.transformer, (2, 3, 5), 12, per_token=model.expand_timesteps).total
    assert formula == transformer_call(model, (2, 6, 10), 12)


def test_keys_per_query_are_those_of_the_method(models) -> None:
    """Section 3: the 5B at 3840 x 2176 x 121 with a window of 23 x 41."""
    native = models[LARGE].grid(ClipSize(height=704, width=1280, frames=121))[1:]
    grid, tokens = (31, 68, 120), 31 * 68 * 120
    for pool, share in ((2, 0.366), (4, 0.178)):
        keys = keys_by_layer(AttentionParams(kind="gclf", pool=pool), grid, native, 2)
        assert [k / tokens for k in keys] == pytest.approx([share] * 2, abs=5e-4)
    assert keys_by_layer(AttentionParams(kind="window"), grid, native, 1) == [31 * 23 * 41]
    assert keys_by_layer(AttentionParams(kind="full"), grid, native, 1) == [tokens]
    with pytest.raises(ValueError, match="does not divide by pool"):
        keys_by_layer(AttentionParams(kind="gclf"), (31, 67, 120), native, 1)


def test_tiles_overlap_and_cost_more_than_whole_frames(models) -> None:
    assert module_flops.tile_lengths(88, 32, 24) == [32, 32, 32, 16]
    latent = models[SMALL].latent(ClipSize(height=1088, width=1920, frames=9))
    whole, tiled = (module_flops.VaeFlops(models[SMALL].vae, tile).decode(latent) for tile in (None, 512))
    assert 1.3 < tiled / whole < 2.2


@pytest.mark.parametrize("latents", [4, 5])
def test_counting_tiles_equals_counting_the_tiled_call(tiny, latents: int) -> None:
    model = load_architecture(str(tiny.path))
    config, tile = model.vae, latents * model.vae["scale_factor_spatial"]
    vae, stride = model.build_vae(), 3 * model.vae["scale_factor_spatial"]
    vae.enable_tiling(tile, tile, stride, stride)
    latent = (config["z_dim"], 2, 5, 7)
    counted = module_flops.counted(vae, torch.empty(1, *latent, device="meta"), method="decode")
    assert module_flops.VaeFlops(model.vae, tile).decode(latent) == counted
    pixels = torch.empty(1, 3, 5, 5 * config["scale_factor_spatial"], 7 * config["scale_factor_spatial"], device="meta")
    assert module_flops.VaeFlops(model.vae, tile).encode(latent) == module_flops.counted(vae, pixels, method="encode")
