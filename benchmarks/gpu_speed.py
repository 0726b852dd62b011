"""Parts `speed` and `vae` of gpu.py: times and peak memory, against goals and against what the plan says."""

import argparse
import math
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from attention import CUDA_IMAGES, CUDA_VIDEOS, MINIATURE, WAN_5B, Case, Network, build_transformer
from gpu import Check, Setting
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from training import RandomLatents, build_bench, measure, random_transformer

from diffusers import AutoencoderKLWan  # isort: skip

from vibe_pipeline.diffusion.attention import GclfSettings, Place, install_gclf, kind_of, remove_gclf
from vibe_pipeline.diffusion.attention.flash import flash_runs_on
from vibe_pipeline.diffusion.checkpoint import tile_stride
from vibe_pipeline.diffusion.models import decode_video, encode_video
from vibe_pipeline.experiment.adapters import AdapterParams
from vibe_pipeline.experiment.attention import AttentionParams
from vibe_pipeline.experiment.model import ClipSize, ModelParams
from vibe_pipeline.planning.architecture import Architecture, load_architecture
from vibe_pipeline.planning.costs import Costs
from vibe_pipeline.planning.devices import find_device

MODEL = "wan22_ti2v_5b"
PLAN = 1.1
"""Goal of peak memory over the plan's: a tenth more."""
SMALL_VIDEOS, SMALL_IMAGES = (Case("4x16x32", (4, 16, 32), (4, 8), 2),), (Case("1x16x28", (1, 16, 28), (4, 7), 2),)
LAYER_GOALS = {"1408x2560x121": 0.65, "2176x3840x121 pool 4": 0.33}
"""Of full attention's time; by operations 0.57 and 0.31."""


def checks(setting: Setting) -> Iterator[Check]:
    """All of both parts; on a CPU figures are shown without goals."""
    full = setting.cuda and not setting.small
    for case in CUDA_VIDEOS if full else SMALL_VIDEOS:
        goal = LAYER_GOALS.get(case.name) if full else None
        yield Check("speed", f"layer {case.name}: gclf over full", partial(layer_ratio, case), goal)
    for case in CUDA_IMAGES if full else SMALL_IMAGES:
        run = partial(layer_ratio, case, gradient=True)
        yield Check("speed", f"layer {case.name}, forward and backward: gclf over full", run, 1.0 if full else None)
        if setting.cuda:
            for backend in ("dense", "flex", *(["flash"] if flash_runs_on(setting.device) else [])):
                run = partial(layer_ratio, case, gradient=True, backend=backend)
                yield Check("speed", f"the same by {backend} in any case: {case.name}", run)
    video = (CUDA_VIDEOS if full else SMALL_VIDEOS)[0]
    for kind in ("full", "gclf"):
        yield Check("speed", f"block {video.name}: {kind}", partial(block_seconds, video, kind), None, "s")
    yield Check("speed", "stage-2 step", partial(step, "seconds", compiled=setting.cuda), 0.190 if full else None, "s")
    if full:
        yield Check("speed", "stage-2 step, eager", partial(step, "seconds", compiled=False), None, "s")
        yield Check("speed", "stage-2 step: peak over the plan's", partial(step, "memory", compiled=True), PLAN)
        yield Check("speed", "model 1408x2560x121 gclf, one forward", partial(model_forward, "seconds"), 11.0, "s")
        yield Check("speed", "model, the same: peak over the plan's", partial(model_forward, "memory"), PLAN)
    for dtype in ("float32", "bfloat16"):
        for decode in (True, False):
            name, frames = ("decode", 33) if decode else ("encode", 9)
            goal = {"float32": 20.0, "bfloat16": 12.0}[dtype] if full and decode else None
            run = partial(vae, "seconds", dtype, decode)
            yield Check("vae", f"{name} {frames if full else 5} frames, {dtype}", run, goal, "s")
            if full:
                named = f"{name}, {dtype}: peak over the plan's"
                yield Check("vae", named, partial(vae, "memory", dtype, decode), PLAN)
    if setting.cuda:
        yield Check("vae", "32-bit convolutions without TF32 (0: they have it)", lambda _: float(not tf32()), 0.0)


def tf32() -> bool:
    """Without it 32-bit decoding takes seven times as long (docs/benchmarks.md)."""
    return bool(torch.backends.cudnn.allow_tf32)


def timed(call: Callable[[], object], setting: Setting, repeats: int = 3) -> float:
    """Median seconds, after one call that pays for compiling."""

    def wait() -> None:
        if setting.cuda:
            torch.cuda.synchronize()

    call()
    times = []
    for _ in range(1 if setting.small else repeats):
        wait()
        begun = time.perf_counter()
        call()
        wait()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def peak(call: Callable[[], object]) -> float:
    """Peak bytes of a call on the GPU, with what was there before."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return float(torch.cuda.max_memory_allocated())


def dtype_of(setting: Setting) -> torch.dtype:
    """What transformers compute in."""
    return torch.bfloat16 if setting.cuda else torch.float32


def network_of(setting: Setting) -> Network:
    """The 5B's, or the miniature's."""
    return MINIATURE if setting.small else WAN_5B


def layer_ratio(case: Case, setting: Setting, gradient: bool = False, backend: str = "auto") -> float:
    """GCLF's time over full attention's, one layer; the backend and the order are what runs."""
    net, frames = network_of(setting), case.grid
    shape = (1, net.heads, math.prod(frames), net.head_dim)
    like: dict[str, Any] = {"device": setting.device, "dtype": dtype_of(setting), "requires_grad": gradient}
    qkv = [torch.randn(shape, **like) for _ in range(3)]
    kind = kind_of(AttentionParams(kind="gclf", half_window=case.half_window, pool=case.pool))
    plan = kind.plan(Place(case.grid, None, setting.device, backend))

    def call(attend: Callable[..., Any]) -> Callable[[], object]:
        if not gradient:
            return torch.no_grad()(lambda: attend(*qkv))
        return lambda: torch.autograd.grad(attend(*qkv).sum(), qkv)

    return timed(call(plan), setting) / timed(call(scaled_dot_product_attention), setting)


def block_seconds(case: Case, kind: str, setting: Setting) -> float:
    """One block with its embeddings."""
    net = network_of(setting)
    model = build_transformer(net, 1, argparse.Namespace(device=setting.device, dtype=dtype_of(setting)))
    if kind == "gclf":
        install_gclf(model, GclfSettings(kind, case.half_window, case.pool), None)
    return timed(forward_of(model, case.grid, setting), setting)


def forward_of(model: nn.Module, grid: tuple[int, int, int], setting: Setting) -> Callable[[], object]:
    """A forward on noise, one timestep for all tokens."""
    like: dict[str, Any] = {"device": setting.device, "dtype": dtype_of(setting)}
    frames, height, width = grid
    latent = torch.randn(1, model.config.in_channels, frames, 2 * height, 2 * width, **like)
    text, timestep = torch.randn(1, 512, model.config.text_dim, **like), torch.full((1,), 500.0, device=setting.device)
    return torch.no_grad()(lambda: model(latent, timestep, text, return_dict=False))


def settings_of(setting: Setting) -> argparse.Namespace:
    """What training.py takes on its command line."""
    small = {"layers": 1, "heads": 2, "ffn": 512} if setting.small else {"layers": None, "heads": None, "ffn": None}
    size = (128, 192) if setting.small else (1536, 2752)
    return argparse.Namespace(device=setting.device, size=size, batch=1, steps=2 if setting.small else 6, **small)


def costs_of(size: ClipSize, **changes: Any) -> Costs:
    """The plan's, of the 5B."""
    native = ClipSize(height=704, width=1280, frames=size.frames)
    model = ModelParams(path=MODEL, native=native, target=size, dtype="bfloat16", tile=512, **changes)
    return Costs(architecture=load_architecture(MODEL), model=model, device=find_device("h100"))


def step(what: str, setting: Setting, compiled: bool) -> float:
    """A stage-2 step, by the loop that runs: its seconds, or its peak over the plan's."""
    args = settings_of(setting)
    args.compile = compiled
    architecture = load_architecture(MODEL)
    config, (height, width) = dict(architecture.transformer), args.size
    image = ClipSize(height=height, width=width)
    images = RandomLatents(2, architecture.latent(image), (512, config["text_dim"]))
    native = architecture.grid(ClipSize(height=704, width=1280))[1:]
    bench = build_bench(random_transformer(config, args), images, native, architecture.expand_timesteps, args)
    found = measure("stage 2", bench)
    if what == "seconds":
        return found.step_ms / 1e3
    row = AdapterParams(label="x", start="base", compile=compiled)
    return 1e9 * found.memory_gb / costs_of(image).step_memory(image, row.attention, row)


def model_forward(what: str, setting: Setting) -> float:
    """The whole 5B with GCLF at 1408x2560x121."""
    size, gclf = ClipSize(height=1408, width=2560, frames=121), AttentionParams(kind="gclf")
    costs = costs_of(size)
    model = random_transformer(dict(costs.architecture.transformer), settings_of(setting))
    install_gclf(model, gclf, costs.native_grid[1:])
    call = forward_of(model, costs.architecture.grid(size), setting)
    seconds = timed(call, setting, 1)
    if what == "seconds":
        return seconds
    found = peak(call)
    remove_gclf(model)
    return found / (costs.weights("transformer") + costs.forward_memory(size, 1, gclf))


def random_vae(architecture: Architecture, dtype: torch.dtype, setting: Setting) -> AutoencoderKLWan:
    """With random weights, in tiles of 512 pixels; a narrow one at toy sizes."""
    narrow = {"base_dim": 8, "decoder_base_dim": 8} if setting.small else {}
    channels = architecture.vae["z_dim"]
    neutral = {"latents_mean": [0.0] * channels, "latents_std": [1.0] * channels}  # the kept configuration has none
    with torch.device(setting.device):
        vae = AutoencoderKLWan.from_config({**architecture.vae, **neutral, **narrow})
    vae = vae.to(dtype)
    stride = tile_stride(dict(vae.config), 512)
    vae.enable_tiling(512, 512, stride, stride)
    return vae.eval().requires_grad_(False)


def vae(what: str, dtype: str, decode: bool, setting: Setting) -> float:
    """A tiled decode or encode: its seconds, or its peak over the plan's."""
    frames = 5 if setting.small else 33 if decode else 9
    height, width = (64, 96) if setting.small else (1408, 2560)
    size = ClipSize(height=height, width=width, frames=frames)
    costs = costs_of(size, vae_dtype=dtype)
    model = random_vae(costs.architecture, getattr(torch, dtype), setting)
    if decode:
        call = partial(decode_video, model, torch.randn(1, *costs.architecture.latent(size)))
    else:
        call = partial(encode_video, model, torch.rand(1, 3, frames, size.height, size.width))
    if what == "seconds":
        return timed(call, setting, 1)
    return peak(call) / (costs.weights("vae") + costs.vae_memory(size, decode))
