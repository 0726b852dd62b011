"""Parts `correctness` and `step` of gpu.py: does a device compute what the definition says?"""

import copy
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from gpu import Check, Setting
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from diffusers import WanTransformer3DModel  # isort: skip

from vibe_pipeline.diffusion import lora
from vibe_pipeline.diffusion.attention import GclfSettings, Windows, install_gclf, inward_window_mask, make_plan
from vibe_pipeline.diffusion.attention.flash import flash_runs_on
from vibe_pipeline.diffusion.attention.geometry import pool_tokens, reorder_tokens
from vibe_pipeline.diffusion.attention.kinds.t3 import T3
from vibe_pipeline.diffusion.rope import RopeKind, rope_of
from vibe_pipeline.experiment.attention import AttentionParams
from vibe_pipeline.experiment.rope import RopeParams

EXACT, HALF, MODEL = 1e-5, 1.6, 1e-4
"""Goals: largest difference in float32; in bfloat16 how much further from float32 than dense attention in bfloat16 is;
largest difference of a whole model in float32, relative to its largest output."""

AWKWARD = [
    Windows((1, 9, 16), (2, 3)),
    Windows((3, 5, 7), (1, 2)),
    Windows((2, 8, 12), (2, 3), 4),
    Windows((5, 6, 10), (1, 1), 2),
    Windows((2, 12, 4), (3, 9), 2),
]
TRUE = [Windows((1, 48, 86), (11, 20), 2), Windows((3, 44, 80), (11, 20), 2), Windows((2, 44, 80), (11, 20), 4)]
GRID, NATIVE = (2, 8, 12), (4, 6)


def checks(setting: Setting) -> Iterator[Check]:
    """All of both parts."""
    for windows in AWKWARD if setting.small else [*AWKWARD, *TRUE]:
        for order in ("thw", "hwt"):
            placed = Windows(windows.grid, windows.half_window, windows.pool, order)
            named = f"{'x'.join(map(str, windows.grid))} pool {windows.pool} {order}"
            for backend in ("dense", "gather", "flex"):
                run = partial(attention_error, placed, backend)
                yield Check("correctness", f"{backend} {named}", run, EXACT)
            if setting.cuda:
                run = partial(half_error, placed, "flex")
                yield Check("correctness", f"flex {named}: bf16 error, dense's is 1", run, HALF)
            if flash_runs_on(setting.device):
                for dim in (64, 128):
                    run = partial(half_error, placed, "flash", dim=dim)
                    yield Check("correctness", f"flash {named} head dim {dim}: bf16 error, dense's is 1", run, HALF)
    for name, change in variants(setting).items():
        yield Check("correctness", f"model: {name}", partial(model_error, change), MODEL)
    yield Check("step", "adapter's gradient against the CPU's, float32", step_error, MODEL)
    yield Check("step", "the same with gradient checkpointing", partial(step_error, checkpointing=True), MODEL)
    if setting.cuda:
        yield Check("step", "the same with compiled blocks", partial(step_error, compiled=True), MODEL)
    if flash_runs_on(setting.device):
        for name, compiled in (("in bf16 by flash: error, gather's is 1", False), ("that with compiled blocks", True)):
            yield Check("step", name, partial(half_step_error, compiled=compiled), HALF)


def inputs(windows: Windows, setting: Setting, heads: int = 2, dim: int = 64) -> list[Tensor]:
    """q, k, v and a direction to take gradients along, [1, heads, L, D], drawn on the CPU."""
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(1, heads, windows.tokens, dim, generator=generator) for _ in range(4)]
    return [x.to(setting.device) for x in drawn]


def by_definition(windows: Windows, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One softmax over window and pooled keys, by a mask."""
    mask = inward_window_mask(windows.grid, windows.half_window)
    if windows.order == "hwt":
        for axis in (0, 1):
            mask = reorder_tokens(mask, windows.grid, axis, "hwt")
    if windows.pool:
        k, v = (torch.cat([x, pool_tokens(x, windows)], 2) for x in (k, v))
        mask = torch.cat([mask, mask.new_ones(windows.tokens, windows.pooled)], 1)
    return scaled_dot_product_attention(q, k, v, attn_mask=mask.to(q.device))


def with_gradients(attend: Callable[..., Tensor], drawn: list[Tensor], gradients: bool) -> list[Tensor]:
    """The output and the gradients of q, k and v."""
    *qkv, along = drawn
    if not gradients:
        with torch.no_grad():
            return [attend(*qkv)]
    qkv = [x.detach().requires_grad_() for x in qkv]
    out = attend(*qkv)
    return [out.detach(), *torch.autograd.grad(out, qkv, along.to(out))]


def difference(one: list[Tensor], other: list[Tensor]) -> float:
    """The largest, over all tensors."""
    return max(float((a.float() - b.float()).abs().max()) for a, b in zip(one, other, strict=True))


def attention_error(windows: Windows, backend: str, setting: Setting) -> float:
    """Values and, where the backend has them here, gradients; in float32 without TF32."""
    drawn, gradients = inputs(windows, setting), setting.cuda or backend != "flex"
    expected = with_gradients(partial(by_definition, windows), drawn, gradients)
    return difference(with_gradients(make_plan(windows, backend, setting.device), drawn, gradients), expected)


def half_error(windows: Windows, backend: str, setting: Setting, dim: int = 64) -> float:
    """A backend in bfloat16 from float32, over dense attention in bfloat16 from float32."""
    drawn = inputs(windows, setting, dim=dim)
    half = [x.bfloat16() for x in drawn]
    expected = with_gradients(partial(by_definition, windows), [x.float() for x in half], True)
    dense, found = (
        difference(with_gradients(attend, half, True), expected)
        for attend in (partial(by_definition, windows), make_plan(windows, backend, setting.device))
    )
    return found / dense


def small_transformer() -> WanTransformer3DModel:
    """Two blocks with weights of the CPU's own generator."""
    torch.manual_seed(0)
    return WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=64,
        in_channels=16,
        out_channels=16,
        text_dim=64,
        ffn_dim=128,
        num_layers=2,
    ).eval()


def variants(setting: Setting) -> dict[str, dict[str, Any]]:
    """What is installed on the model and how it is called, each against the CPU's plain way."""
    gclf = GclfSettings("gclf", (2, 3), 2)
    found: dict[str, dict[str, Any]] = {
        "full": {"settings": AttentionParams()},
        "gclf, gather": {"settings": gclf, "backend": "gather"},
        "gclf, gather, (h, w, t)": {"settings": gclf, "backend": "gather", "order": "hwt"},
        "gclf, flex, (h, w, t)": {"settings": gclf, "backend": "flex", "order": "hwt"},
        "gclf, flex, a timestep a token": {"settings": gclf, "backend": "flex", "order": "hwt", "per_token": True},
        "gclf, gather, a timestep a token": {"settings": gclf, "backend": "gather", "per_token": True},
        "t3": {"settings": AttentionParams(kind=T3.name, groups=((2, 1, 1), (1, 2, 3)))},
        "AR-RoPE": {"settings": AttentionParams(), "rope": rope_of(RopeParams(kind="ar", tile=(4, 6), reach=(7, 11)))},
    }
    if setting.cuda:
        found["gclf, flex, compiled"] = {"settings": gclf, "backend": "flex", "compiled": True}
    return found


def model_error(change: dict[str, Any], setting: Setting) -> float:
    """Forward of the device in one way, against the CPU's in the plainest, relative to the largest output."""
    expected = forward(small_transformer(), "cpu", change | {"backend": "auto", "order": None, "compiled": False})
    found = forward(small_transformer().to(setting.device), setting.device, change).cpu()
    return difference([found], [expected]) / float(expected.abs().max())


@torch.no_grad()
def forward(transformer: WanTransformer3DModel, device: str, change: dict[str, Any]) -> Tensor:
    """One forward on the fixed input, with attention installed."""
    rope: RopeKind | None = change.get("rope")
    install_gclf(transformer, change["settings"], NATIVE, change.get("backend", "auto"), change.get("order"), rope=rope)
    if change.get("compiled"):
        transformer.compile_repeated_blocks()
    latent, text, timestep = example(change.get("per_token", False))
    return transformer(latent.to(device), timestep.to(device), text.to(device), return_dict=False)[0]


def example(per_token: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Latent, text and timesteps, drawn on the CPU."""
    generator = torch.Generator().manual_seed(1)
    frames, height, width = GRID
    latent = torch.randn(1, 16, frames, 2 * height, 2 * width, generator=generator)
    text = torch.randn(1, 16, 64, generator=generator)
    steps = 1000 * torch.rand(1, math.prod(GRID), generator=generator)
    return latent, text, steps if per_token else steps[:, 0]


def step_error(setting: Setting, checkpointing: bool = False, compiled: bool = False) -> float:
    """The adapter's gradients of one training step, with the row's own attention, relative to the largest."""
    expected = step_gradients("cpu")
    found = step_gradients(setting.device, checkpointing=checkpointing, compiled=compiled)
    return difference(found, expected) / max(float(g.abs().max()) for g in expected)


def half_step_error(setting: Setting, compiled: bool = False) -> float:
    """Those of a step in bfloat16 by flash from float32, over those by gather in bfloat16 from float32."""
    expected = step_gradients("cpu")
    gather, flash = (
        difference(step_gradients(setting.device, backend, torch.bfloat16, compiled=compiled), expected)
        for backend in ("gather", "flash")
    )
    return flash / gather


def step_gradients(
    device: str,
    backend: str = "auto",
    dtype: torch.dtype = torch.float32,
    checkpointing: bool = False,
    compiled: bool = False,
) -> list[Tensor]:
    """Of the adapter, after one training step with GCLF, on the CPU."""
    transformer = small_transformer().requires_grad_(False)
    lora.add_adapter(transformer, "d2", 4, 4.0, ("to_q", "to_v", "ffn.net.2"), 0)
    for name, parameter in transformer.named_parameters():
        if "lora_B" in name:  # zero at first, and then no gradient reaches lora_A
            nn.init.normal_(parameter, std=0.02, generator=torch.Generator().manual_seed(2))
    transformer = copy.deepcopy(transformer).to(device, dtype).train()
    install_gclf(transformer, GclfSettings("gclf", (2, 3), 2), NATIVE, backend)
    if checkpointing:
        transformer.enable_gradient_checkpointing()
    if compiled:
        transformer.compile_repeated_blocks()
    latent, text, timestep = example(False)
    out = transformer(latent.to(device, dtype), timestep.to(device), text.to(device, dtype), return_dict=False)[0]
    out.float().square().mean().backward()
    return [p.grad.float().cpu() for p in lora.adapter_parameters(transformer, "d2").values()]
