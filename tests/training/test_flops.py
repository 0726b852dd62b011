"""The FLOP count against torch's own counter, against the paper's figures, and the log line it ends in."""

import time

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vibe_pipeline.diffusion import lora
from vibe_pipeline.diffusion.attention import install_gclf
from vibe_pipeline.diffusion.models import velocity_predictor
from vibe_pipeline.experiment.attention import AttentionParams
from vibe_pipeline.experiment.training import LoraParams
from vibe_pipeline.training.flops import BACKWARD_ATTENTION, count_flops
from vibe_pipeline.training.throughput import Window, peak_teraflops

GRID, TEXT = (1, 4, 6), 12


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


@pytest.mark.parametrize(
    "targets", [LoraParams().targets, ("attn2.to_k",), ("blocks.1.ffn.net.2",), ("to_out.0",), ("blocks.1.attn1.to_q",)]
)
@pytest.mark.parametrize("style", ["wan21", "wan22"])
def test_the_count_is_that_of_torch(request, style: str, targets: tuple[str, ...]) -> None:
    """Exactly, whatever is trained. Attention backwards is 2.5 of forwards in the fused kernels, which compute the
    scores again and every gradient; torch's plain one costs 2, and less where some gradients are not needed."""
    transformer = request.getfixturevalue(style).transformer()
    lora.add_adapter(transformer, "d", 4, 4, targets, 0)
    ours = count_flops(transformer, GRID, TEXT)
    forward, backward = counted(transformer, style)
    assert ours.linear_forward == forward["linear"]
    assert ours.linear_backward == backward["linear"]
    assert ours.attention_forward == forward["attention"]
    plain = backward["attention"] * BACKWARD_ATTENTION / 2
    assert ours.attention_backward == plain if targets == LoraParams().targets else ours.attention_backward >= plain


def test_a_frozen_stage_1_beside_the_weights_is_counted_without_its_weights_gradients(wan21) -> None:
    transformer = wan21.transformer()
    alone = wan21.transformer()
    lora.add_adapter(alone, "d", 4, 4, ("blocks.1.ffn.net.2", "blocks.1.attn1.to_v"), 0)
    lora.add_adapter(transformer, lora.FUSED, 6, 4, LoraParams().targets, 0)
    lora.add_adapter(transformer, "d", 4, 4, ("blocks.1.ffn.net.2", "blocks.1.attn1.to_v"), 0)
    ours = count_flops(transformer, GRID, TEXT)
    forward, backward = counted(transformer, "wan21")
    assert (ours.linear_forward, ours.linear_backward) == (forward["linear"], backward["linear"])
    assert ours.linear_forward > count_flops(alone, GRID, TEXT).linear_forward


def test_windowed_attention_counts_the_keys_a_query_sees(wan21) -> None:
    transformer = wan21.transformer()
    lora.add_adapter(transformer, "d", 4, 4, LoraParams().targets, 0)
    full = count_flops(transformer, GRID, TEXT)
    for kind, keys in (("window", 3 * 5), ("gclf", 3 * 5 + 2 * 3)):
        install_gclf(transformer, AttentionParams(kind=kind, half_window=(1, 2), pool=2))
        seen = count_flops(transformer, GRID, TEXT)
        assert seen.attention_forward == pytest.approx(full.attention_forward * (keys + TEXT) / (24 + TEXT))
        assert seen.linear_forward == full.linear_forward


def test_the_papers_stage_2_step_costs_what_the_method_says() -> None:
    """5B at 1536 x 2752, one frame: 36 TFLOP linear, 7 attention; a LoRA step is 2 x and 3.5 x of them."""
    with torch.device("meta"):
        transformer = WanTransformer3DModel(
            num_attention_heads=24,
            attention_head_dim=128,
            in_channels=48,
            out_channels=48,
            ffn_dim=14336,
            num_layers=30,
        )
    transformer.requires_grad_(False)
    transformer.blocks[0].attn1.to_q.bias.requires_grad_(True)  # a gradient through everything, at no cost of its own
    flops = count_flops(transformer, (1, 48, 86), 512)
    assert flops.attention_forward / 1e12 == pytest.approx(7, rel=0.1)
    assert flops.total / 1e12 == pytest.approx(0.139 * 700, rel=0.05)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989),
        ("NVIDIA H20", 148),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA GeForce RTX 4090", 165),
        ("NVIDIA RTX A4000", None),
        ("Radeon", None),
    ],
)
def test_peaks_by_name(name: str, peak: float | None) -> None:
    assert peak_teraflops(name) == peak


def test_a_log_line_divides_by_the_seconds_of_all_its_steps() -> None:
    """Hours, so that what the test itself takes does not show."""
    before = Window(begun=time.monotonic() - 7200)
    before.add({"loss": 1.0}, 4, 400, 8e15)
    resumed = Window(**before.state())  # what a checkpoint holds
    resumed.begun -= 1800
    resumed.add({"loss": 3.0}, 6, 600, 12e15)
    line, blind = resumed.record(peak=4.0, memory=1.5), resumed.record(None, 1.5)
    expected = {"loss": 2.0, "images_per_second": 10 / 9000, "tokens_per_second": 1000 / 9000, "seconds": 9000}
    expected |= {"teraflops_per_second": 20e3 / 9000, "share_of_peak": 20e3 / 9000 / 4, "peak_memory_gb": 1.5}
    assert line == pytest.approx(expected, rel=1e-3)
    assert set(line) - set(blind) == {"share_of_peak"}
