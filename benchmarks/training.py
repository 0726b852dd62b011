"""Speed of adapter training, as ratios within one run; on a GPU, a step of the true 5B and its share of the peak.

Stage 2 of a model on disk, always with the loop that `kedro run` uses: latents and text embeddings cached against
encoded in every step, one image against several, with and without gradient checkpointing.

    python benchmarks/training.py                                                         # the miniature, CPU
    python benchmarks/training.py --device cuda --architecture wan22_ti2v_5b --size 1536x2752   # random weights
    python benchmarks/training.py --architecture wan22_ti2v_5b --size 128x192 --layers 1 --heads 2 --ffn 512

With `--architecture` nothing is downloaded: the model is built on the device from its configuration, with random
weights and random latents of the size's shape. `--layers`, `--heads`, `--ffn` shrink it to try the path on a CPU.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

import vibe_pipeline  # noqa: F401  before diffusers: it makes torchvision importable

from diffusers import WanTransformer3DModel  # isort: skip
from transformers import AutoTokenizer, UMT5EncoderModel  # isort: skip

from vibe_pipeline.diffusion import lora
from vibe_pipeline.diffusion.attention import install_gclf
from vibe_pipeline.diffusion.models import WanCheckpoint, encode_video, find_model, load_transformer, load_vae
from vibe_pipeline.experiment.adapters import AdapterParams
from vibe_pipeline.experiment.model import ClipSize, ModelParams
from vibe_pipeline.images.cache import CacheEntry, LatentCache
from vibe_pipeline.planning.architecture import load_architecture
from vibe_pipeline.training.distributed import Group
from vibe_pipeline.training.job import StageLoss, TrainingJob
from vibe_pipeline.training.loop import train_adapter

WARM_UP = 2
CAPTION = "a striped red circle moving left over woven navy"


@dataclass
class Row:
    """One measurement; medians over the steps after the warm-up."""

    variant: str
    batch: int
    step_ms: float
    images_per_second: float
    teraflops_per_second: float
    share_of_peak: float | None
    memory_gb: float | None
    ratio: float | None = None


class Images:
    """What a LatentCache offers, for images that are encoded, or drawn at random, whenever they are asked for."""

    draws = 0  # none of theirs is degraded by drawn factors

    def __init__(self, count: int) -> None:
        self.entries = [CacheEntry(f"{i:02d}", CAPTION, Path(), False, 0, Path()) for i in range(count)]
        self.buckets = {0: list(range(count))}

    def __len__(self) -> int:
        return len(self.entries)

    def shape(self, part: str, index: int) -> tuple[int, ...]:
        """Of one part of one image."""
        return tuple(self.batch(part, [index]).shape[1:])


class EncodedImages(Images):
    """Random pictures through VAE and text encoder, both of which stay in memory."""

    def __init__(self, model: WanCheckpoint, size: tuple[int, int], count: int, device: torch.device) -> None:
        super().__init__(count)
        self.pixels = torch.rand(count, 3, 1, *size, generator=torch.Generator().manual_seed(0))
        self.vae = load_vae(model, device)
        self.tokenizer = AutoTokenizer.from_pretrained(model.path, subfolder="tokenizer")
        self.encoder = UMT5EncoderModel.from_pretrained(model.path, subfolder="text_encoder").eval().to(device)
        self.latent = tuple(encode_video(self.vae, self.pixels[:1]).shape[1:])

    def shape(self, part: str, index: int) -> tuple[int, ...]:
        """Known without encoding."""
        return self.latent if part != "text" else super().shape(part, index)

    @torch.inference_mode()
    def batch(self, part: str, indices: Sequence[int], draws: Tensor | None = None) -> Tensor:
        """Encode: this is the cost that a cache saves."""
        if part != "text":
            return encode_video(self.vae, self.pixels[list(indices)]).clone()
        tokens = self.tokenizer([CAPTION] * len(indices), padding="max_length", return_tensors="pt")
        return self.encoder(**tokens.to(self.encoder.device)).last_hidden_state.float().cpu()

    def cached(self, folder: Path) -> LatentCache:
        """The same images as a cache on disk."""
        path = folder / "cache.safetensors"
        save_file(
            {
                f"{e.sha256}.{part}": self.batch(part, [i])[0].contiguous()
                for i, e in enumerate(self.entries)
                for part in ("high", "text")
            },
            path,
        )
        images = [asdict(e) | {"shard": str(path), "text_shard": str(path)} for e in self.entries]
        return LatentCache({"key": "benchmark", "images": images})


class RandomLatents(Images):
    """Noise in the shape of latents and embeddings, drawn once."""

    def __init__(self, count: int, latent: tuple[int, ...], text: tuple[int, ...]) -> None:
        super().__init__(count)
        generator = torch.Generator().manual_seed(0)
        self.tensors = {
            "high": torch.randn(count, *latent, generator=generator),
            "text": torch.randn(count, *text, generator=generator),
        }

    def batch(self, part: str, indices: Sequence[int], draws: Tensor | None = None) -> Tensor:
        """From memory."""
        return self.tensors[part][list(indices)]


@dataclass(frozen=True)
class Bench:
    """A job, the transformer that it trains, and where."""

    job: TrainingJob
    transformer: WanTransformer3DModel
    device: torch.device


def measure(variant: str, bench: Bench, **changes: Any) -> Row:
    """Train for the steps of the job, on from what its adapter is by now, and take the median step."""
    row = bench.job.row.model_copy(update=changes)
    bench.transformer.disable_gradient_checkpointing()
    with tempfile.TemporaryDirectory() as folder:
        job = replace(bench.job, row=row, folder=Path(folder))
        log = train_adapter(job, bench.transformer, Group(device=bench.device))[WARM_UP:]
    share = float(log["share_of_peak"].median()) if "share_of_peak" in log else None
    seconds = statistics.median(log["seconds"])
    images, speed = row.batch_size / seconds, float(log["teraflops_per_second"].median())
    # On the CPU it is that of the whole process, earlier variants included.
    memory = float(log["peak_memory_gb"].max()) if bench.device.type == "cuda" else None
    return Row(variant, row.batch_size, 1e3 * seconds, images, speed, share, memory)


def build_bench(
    transformer: WanTransformer3DModel, images: Any, native_grid: tuple[int, int], per_token: bool, args: Any
) -> Bench:
    """Stage 2 as published: rank 32 on 300 layers, HFATO, GCLF attention with pooling 2, bfloat16 activations."""
    row = AdapterParams(
        label="benchmark",
        start="base",
        steps=WARM_UP + args.steps,
        batch_size=args.batch,
        log_every=1,
        compile=args.compile,
    )
    lora.add_adapter(transformer, "d2", row.lora.rank, row.lora.alpha, row.lora.targets, 0)
    install_gclf(transformer, row.attention, native_grid)
    height, width = args.size
    size = {"height": height, "width": width}
    dtype = str(transformer.blocks[0].attn1.to_q.weight.dtype).removeprefix("torch.")
    job = TrainingJob(
        name="d2",
        key="benchmark",
        folder=Path(),
        model=ModelParams(path="benchmark", native=size, target=size, dtype=dtype),
        expand_timesteps=per_token,
        row=row,
        images=images,
        held_out=None,
        loss=StageLoss("high", row.objective, row.degradation),
    )
    return Bench(job, transformer, torch.device(args.device))


def measure_model(args: argparse.Namespace) -> list[Row]:
    """Ratios on a model that is on disk, with its VAE and text encoder."""
    found, device = find_model(args.model), torch.device(args.device)
    height, width = args.size
    architecture = load_architecture(args.model)
    native = architecture.grid(ClipSize(height=height // 2, width=width // 2))[1:]
    images = EncodedImages(found, args.size, 2 * args.batch, device)
    transformer = load_transformer(found, device, torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        cached = build_bench(transformer, images.cached(Path(folder)), native, found.expand_timesteps, args)
        rows = [
            measure("cached", cached),
            measure("encoded in every step", replace(cached, job=replace(cached.job, images=images))),
        ]
        rows.append(measure("one image a step", cached, batch_size=1))
        rows.append(measure("gradient checkpointing", cached, gradient_checkpointing=True))
    return rows


def random_transformer(config: dict[str, Any], args: argparse.Namespace) -> WanTransformer3DModel:
    """Made on the device; bfloat16 but for the parts that diffusers keeps in 32 bit."""
    changed = {"num_layers": args.layers, "num_attention_heads": args.heads, "ffn_dim": args.ffn}
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(args.device):
            model = WanTransformer3DModel.from_config(config | {k: v for k, v in changed.items() if v is not None})
    finally:
        torch.set_default_dtype(torch.float32)
    for name, parameter in model.named_parameters():
        if any(part in name for part in model._keep_in_fp32_modules):
            parameter.data = parameter.data.float()
    return model.eval().requires_grad_(False)


def measure_architecture(args: argparse.Namespace) -> list[Row]:
    """A stage-2 step of a known architecture, with and without gradient checkpointing."""
    architecture = load_architecture(args.architecture)
    config = dict(architecture.transformer)
    native = architecture.grid(ClipSize(height=704, width=1280))[1:]
    latent = architecture.latent(ClipSize(height=args.size[0], width=args.size[1]))
    images = RandomLatents(2 * args.batch, latent, (512, config["text_dim"]))
    bench = build_bench(random_transformer(config, args), images, native, architecture.expand_timesteps, args)
    rows = [measure("stage 2", bench), measure("gradient checkpointing", bench, gradient_checkpointing=True)]
    return rows if args.batch == 1 else [*rows, measure("one image a step", bench, batch_size=1)]


def line(row: Row) -> str:
    """One line of the table."""
    share = "-" if row.share_of_peak is None else f"{row.share_of_peak:.1%}"
    memory = "-" if row.memory_gb is None else f"{row.memory_gb:.2f}"
    return (
        f"{row.variant:26}{row.batch:>6}{row.step_ms:>12.1f}{row.images_per_second:>11.2f}{row.ratio:>8.2f}"
        f"{row.teraflops_per_second:>11.3f}{share:>9}{memory:>9}"
    )


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--model", default="data/06_models/base", help="a folder in diffusers layout, or a hub id")
    parser.add_argument("--architecture", help="random weights of this one: wan22_ti2v_5b, wan21_t2v_1_3b")
    parser.add_argument("--size", help="HEIGHTxWIDTH in pixels; default 128x128, with --architecture 1536x2752")
    parser.add_argument("--batch", type=int, help="images a step; default 8, with --architecture 1")
    parser.add_argument("--steps", type=int, default=8, help=f"timed steps, after {WARM_UP} of warm-up")
    parser.add_argument("--layers", type=int, help="fewer blocks than the architecture has")
    parser.add_argument("--heads", type=int, help="fewer heads, and so a narrower model")
    parser.add_argument("--ffn", type=int, help="a narrower feed-forward layer")
    parser.add_argument("--compile", action="store_true", help="torch.compile of the blocks")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--json", type=Path, help="write the rows here as well")
    args = parser.parse_args()
    args.size = tuple(map(int, (args.size or ("1536x2752" if args.architecture else "128x128")).split("x")))
    args.batch = args.batch or (1 if args.architecture else 8)
    return args


def main() -> None:
    """Measure what the command line asks for and print a table; the ratio is in images/s, to the first row."""
    args = parse()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rows = measure_architecture(args) if args.architecture else measure_model(args)
    where = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {args.threads} thread(s)"
    print(f"{where}, torch {torch.__version__}, {args.architecture or args.model}, {args.size[0]}x{args.size[1]}")
    print(f"{'variant':26}{'batch':>6}{'ms a step':>12}{'images/s':>11}{'x':>8}{'TFLOP/s':>11}{'of peak':>9}{'GB':>9}")
    for row in rows:
        row.ratio = row.images_per_second / rows[0].images_per_second
        print(line(row))
    if args.json:
        report = {"device": where, "torch": torch.__version__, "settings": vars(args), "rows": [*map(asdict, rows)]}
        args.json.write_text(json.dumps(report, indent=2, default=str))


if __name__ == "__main__":
    main()
