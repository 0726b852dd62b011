"""Time and memory of GCLF attention: the (h, w, t) token order against (t, h, w) and against full attention.

All variants of a case run one after another in this process; ratios are to full attention in the same run.
On the CPU the grids are small; on CUDA they are Wan2.2-TI2V-5B's (24 heads of 128) at 1408x2560 and 2176x3840,
121 frames, with half windows of (11, 20) tokens: half of its native 704x1280.

    python benchmarks/attention.py                                        # CPU, small grids
    python benchmarks/attention.py --device cuda --scopes layer block model --json out.json
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

import vibe_pipeline  # noqa: F401  before diffusers: it makes torchvision importable

from diffusers import WanTransformer3DModel  # isort: skip

from vibe_pipeline.diffusion.attention import (
    GclfSettings,
    Windows,
    computed_share,
    install_gclf,
    make_plan,
    remove_gclf,
)

SCOPES = ("layer", "gradient", "block", "model")


@dataclass(frozen=True)
class Case:
    """One geometry: grid (T, H, W), half window and pooling, all in tokens."""

    name: str
    grid: tuple[int, int, int]
    half_window: tuple[int, int]
    pool: int


@dataclass(frozen=True)
class Network:
    """Sizes of the transformer around the attention."""

    heads: int
    head_dim: int
    ffn: int
    channels: int
    layers: int


@dataclass
class Row:
    """One measurement; None where it does not apply or was not measured."""

    scope: str
    case: str
    variant: str
    milliseconds: float | None = None
    megabytes: float | None = None
    keys_share: float | None = None
    blocks_share: float | None = None
    time_ratio: float | None = None
    memory_ratio: float | None = None
    note: str = ""


CPU_VIDEOS = (Case("4x16x32", (4, 16, 32), (4, 8), 2), Case("8x20x32", (8, 20, 32), (4, 7), 2))
CPU_IMAGES = (Case("1x16x28", (1, 16, 28), (4, 7), 2), Case("1x48x86", (1, 48, 86), (11, 20), 2))
CUDA_VIDEOS = (
    Case("1408x2560x121", (31, 44, 80), (11, 20), 2),
    Case("2176x3840x121", (31, 68, 120), (11, 20), 2),
    Case("2176x3840x121 pool 4", (31, 68, 120), (11, 20), 4),
)
CUDA_IMAGES = (Case("1536x2752 image", (1, 48, 86), (11, 20), 2),)
MINIATURE = Network(heads=2, head_dim=48, ffn=256, channels=16, layers=2)
WAN_5B = Network(heads=24, head_dim=128, ffn=14336, channels=48, layers=30)


def variants(scope: str, device: str) -> tuple[tuple[str, str], ...]:
    """(backend, order) pairs beside full attention; compiled flex on the CPU has no backward."""
    if scope == "gradient":
        return (("dense", "thw"), ("gather", "thw"), *((("flex", "thw"),) if device == "cuda" else ()))
    if scope == "layer":
        return (("flex", "thw"), ("flex", "hwt"), ("gather", "thw"))
    return (("flex", "thw"), ("flex", "hwt")) if device == "cuda" else (("gather", "thw"), ("gather", "hwt"))


def peak_megabytes(call: Callable[[], object], device: str) -> float:
    """Peak memory that torch's allocator hands out during a call, above what was held before."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    # Resident pages would tell of malloc's habits; the profiler's allocation events tell of the tensors.
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    sizes = (e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()))
    return max(accumulate(sizes), default=0) / 2**20


def measure(call: Callable[[], object], device: str, repeats: int) -> tuple[float, float]:
    """Median milliseconds and peak MB, after one call that pays for compilation.

    On the CPU it is the process's CPU time: a busy machine stretches the wall clock, not this.
    """
    clock = time.perf_counter if device == "cuda" else time.process_time

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    call()
    memory, times = peak_megabytes(call, device), []
    for _ in range(repeats):
        wait()
        start = clock()
        call()
        wait()
        times.append(1e3 * (clock() - start))
    return statistics.median(times), memory


def layer_calls(case: Case, net: Network, args: argparse.Namespace) -> Iterator[tuple[str, str, Callable]]:
    """One attention layer: full, then each variant; with its backward pass in scope `gradient`."""
    gradient = args.scope == "gradient"
    shape = (1, net.heads, math.prod(case.grid), net.head_dim)
    q, k, v = (torch.randn(shape, device=args.device, dtype=args.dtype, requires_grad=gradient) for _ in range(3))

    def call(attend: Callable) -> Callable[[], object]:
        if not gradient:
            return torch.no_grad()(lambda: attend(q, k, v))
        return lambda: torch.autograd.grad(attend(q, k, v).sum(), (q, k, v))

    yield "full", "thw", call(torch.nn.functional.scaled_dot_product_attention)
    for backend, order in variants(args.scope, args.device):
        windows = Windows(case.grid, case.half_window, case.pool, order)
        yield backend, order, call(make_plan(windows, backend, args.device, compile_flex=True))


def build_transformer(net: Network, layers: int, args: argparse.Namespace) -> WanTransformer3DModel:
    """A Wan transformer with random weights, made on the device."""
    torch.set_default_dtype(args.dtype)
    try:
        with torch.device(args.device):
            model = WanTransformer3DModel(
                num_attention_heads=net.heads,
                attention_head_dim=net.head_dim,
                in_channels=net.channels,
                out_channels=net.channels,
                text_dim=4096 if args.device == "cuda" else 64,
                ffn_dim=net.ffn,
                num_layers=layers,
            )
    finally:
        torch.set_default_dtype(torch.float32)
    return model.eval().requires_grad_(False)


def model_calls(case: Case, net: Network, args: argparse.Namespace) -> Iterator[tuple[str, str, Callable]]:
    """A transformer of one block (scope `block`, embeddings included) or of all (scope `model`)."""
    model = build_transformer(net, 1 if args.scope == "block" else net.layers, args)
    frames, height, width = case.grid
    like = {"device": args.device, "dtype": args.dtype}
    inputs = {
        "hidden_states": torch.randn(1, net.channels, frames, 2 * height, 2 * width, **like),
        "timestep": torch.full((1, math.prod(case.grid)) if args.per_token else (1,), 500, device=args.device),
        "encoder_hidden_states": torch.randn(1, 512, model.config.text_dim, **like),
    }
    call = torch.no_grad()(lambda: model(**inputs, return_dict=False))
    yield "full", "thw", call
    for backend, order in variants(args.scope, args.device):
        install_gclf(model, GclfSettings(half_window=case.half_window, pool=case.pool), None, backend, order)
        yield backend, order, call
    remove_gclf(model)


def measure_case(case: Case, net: Network, args: argparse.Namespace) -> list[Row]:
    """All variants of one case, each with its ratio to full attention."""
    calls = layer_calls if args.scope in ("layer", "gradient") else model_calls
    rows: list[Row] = []
    for backend, order, call in calls(case, net, args):
        name = "full" if backend == "full" else f"{backend} ({','.join(order)})"
        row = Row(args.scope, case.name, name)
        try:
            row.milliseconds, row.megabytes = measure(call, args.device, args.repeats)
        except torch.OutOfMemoryError:
            row.note = "out of memory"
        if backend != "full":
            windows = Windows(case.grid, case.half_window, case.pool, order)
            row.keys_share = (math.prod(windows.sizes) * case.grid[0] + windows.pooled) / windows.tokens
            row.blocks_share = computed_share(windows) if backend == "flex" else None
        rows.append(row)
        row.time_ratio = _ratio(row.milliseconds, rows[0].milliseconds)
        row.memory_ratio = _ratio(row.megabytes, rows[0].megabytes)
        print(_line(row), flush=True)
    return rows


def _ratio(value: float | None, reference: float | None) -> float | None:
    return value / reference if value is not None and reference else None


def _line(row: Row) -> str:
    def cell(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    return (
        f"{row.scope:9}{row.case:22}{row.variant:16}{cell(row.milliseconds, '.1f'):>11}{cell(row.time_ratio, '.2f'):>8}"
        f"{cell(row.megabytes, '.0f'):>9}{cell(row.memory_ratio, '.2f'):>8}"
        f"{cell(row.keys_share, '.1%'):>8}{cell(row.blocks_share, '.1%'):>9}  {row.note}"
    )


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--scopes", nargs="+", choices=SCOPES, default=["layer", "gradient", "block"])
    parser.add_argument("--cases", nargs="+", help="only the cases whose names contain one of these")
    parser.add_argument("--repeats", type=int, default=3, help="timed calls per variant; the median counts")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--per-token", action="store_true", help="per-token timesteps, as Wan2.2-TI2V-5B's pipeline")
    parser.add_argument("--json", type=Path, help="write the rows here as well")
    args = parser.parse_args()
    args.dtype = torch.bfloat16 if args.device == "cuda" else torch.float32
    return args


def main() -> None:
    """Measure what the command line asks for and print a table."""
    args = parse()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    on_gpu = args.device == "cuda"
    net, videos, images = (WAN_5B, CUDA_VIDEOS, CUDA_IMAGES) if on_gpu else (MINIATURE, CPU_VIDEOS, CPU_IMAGES)
    where = torch.cuda.get_device_name() if on_gpu else f"CPU, {args.threads} thread(s)"
    print(f"{where}, torch {torch.__version__}, {args.dtype}; ratios are to full attention")
    print(f"{'scope':9}{'case':22}{'variant':16}{'ms':>11}{'x':>8}{'MB':>9}{'x':>8}{'keys':>8}{'blocks':>9}")
    rows = []
    for scope in args.scopes:
        for case in images if scope == "gradient" else videos:
            if not args.cases or any(part in case.name for part in args.cases):
                rows += measure_case(case, net, argparse.Namespace(scope=scope, **vars(args)))
    if args.json:
        report = {"device": where, "torch": torch.__version__, "dtype": str(args.dtype), "rows": [*map(asdict, rows)]}
        args.json.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
