"""Is the latent cache's memory flat in the number of images, and what does reading a batch cost?

.venv/bin/python benchmarks/cache.py [--model data/06_models/base] [--images 300 1200] [--side 32] [--json out.json]

Each size runs in two processes of its own, one that encodes and one that reads, whose peak memory the system tells.
Captions are padded to 512 tokens, so that holding all of them would show.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

import vibe_pipeline  # noqa: F401  (before diffusers: makes torchvision importable beside a CPU build of torch)
from vibe_pipeline.diffusion.models import find_model, limit_threads
from vibe_pipeline.experiment.data import DataParams
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.images.cache import LatentCache, build_cache, epoch_batches
from vibe_pipeline.io.files import read_json

BATCH = 8
PARTS = ("high", "pixel", "text")


def peak() -> float:
    """The most memory this process has held, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def encode(model: str, folder: Path, count: int, side: int) -> dict[str, float]:
    """Write `count` images of noise and encode them."""
    limit_threads(1)
    size, rng, rows = {"height": side, "width": side}, np.random.default_rng(0), []
    for i in range(count):
        path = folder / f"{i}.png"
        Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(path)
        rows.append({"path": str(path), "caption": f"a red circle {i}", "sha256": f"{i:064d}"})
    params = ModelParams(path=model, native=size, target=size, device="cpu", text_length=512)
    data = DataParams(path=folder, low=size, high=size, buckets="single", encode_batch=BATCH)
    before = peak()
    begun = time.process_time()
    build_cache(pd.DataFrame(rows), find_model(model), params, data, folder)
    return {"encode_mb": peak(), "before_mb": before, "encode_cpu_s": time.process_time() - begun}


def read(folder: Path) -> dict[str, float]:
    """Read two epochs; the time is the processor's, so that other work on the machine does not count."""
    cache = LatentCache(read_json(folder / "manifest.json"))
    before, batches = peak(), 2 * len(cache) // BATCH
    begun = time.process_time()
    for indices in islice(epoch_batches(cache, BATCH, 0), batches):
        for part in PARTS:
            cache.batch(part, indices)
    seconds = (time.process_time() - begun) / batches
    return {"read_mb": peak(), "read_before_mb": before, "cpu_ms_per_batch": 1000 * seconds}


def in_process(*arguments: object) -> dict[str, Any]:
    """The answer of this script in a process of its own."""
    command = [sys.executable, __file__, *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main() -> None:
    """Print a table, and the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="data/06_models/base")
    parser.add_argument("--images", type=int, nargs="+", default=[300, 1200])
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--do", choices=["encode", "read"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.do == "encode":
        print(json.dumps(encode(args.model, args.folder, args.images[0], args.side)))
    elif args.do == "read":
        print(json.dumps(read(args.folder)))
    else:
        rows = []
        for count in args.images:
            with tempfile.TemporaryDirectory() as folder:
                common = ("--model", args.model, "--folder", folder, "--images", count, "--side", args.side)
                row = {"images": count} | in_process(*common, "--do", "encode")
                row |= {"cache_mb": sum(p.stat().st_size for p in Path(folder).glob("*.safetensors")) / 2**20}
                rows.append(row | in_process(*common, "--do", "read"))
        print(pd.DataFrame(rows).round(1).to_string(index=False))
        if args.json:
            args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
