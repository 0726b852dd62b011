"""Time of scoring clips on several VBench dimensions: ours against stock calls of `VBench.evaluate`, in one run.

The weights are the tests' small stand-ins with random values (only temporal_flickering needs none and is real), so
the models cost less than real ones, and what is shared between dimensions (decoding) weighs more than it would.
Stock is one call per dimension, as ours starts from nothing: both build every model once. Orders alternate.

    python benchmarks/vbench.py                                            # small clips
    python benchmarks/vbench.py --height 720 --width 1280 --frames 25 --json out.json
"""

import argparse
import importlib.util
import json
import logging
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import torch

from vibe_pipeline.io.video import write_lossless
from vibe_pipeline.vbench.prompts import full_info_path
from vibe_pipeline.vbench.run import Scoring
from vibe_pipeline.vbench.score import score_vbench
from vibe_pipeline.vbench.surroundings import offline, point_to_cache, quiet

DIMENSIONS = (
    "temporal_flickering",
    "subject_consistency",
    "background_consistency",
    "aesthetic_quality",
    "imaging_quality",
    "overall_consistency",
    "temporal_style",
)


def load_standins() -> ModuleType:
    """The tests' makers of stand-in weights."""
    path = Path(__file__).parents[1] / "tests" / "evaluation" / "standins.py"
    spec = importlib.util.spec_from_file_location("standins", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_clips(folder: Path, options: argparse.Namespace) -> pd.DataFrame:
    """Lossless clips of a random picture that moves."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(options.clips):
        picture = rng.random((-(-options.height // 8), -(-options.width // 8), 3), np.float32)
        picture = picture.repeat(8, 0).repeat(8, 1)[: options.height, : options.width]
        clip = np.stack([np.roll(picture, 3 * i, 1) for i in range(options.frames)])
        path = write_lossless(folder / f"clip{number}.mp4", clip, 8.0)
        rows.append(("all", number, f"picture {number}", 0, str(path), 8.0, *clip.shape[:3]))
    names = ["arm", "prompt_index", "prompt", "seed", "path", "fps", "frames", "height", "width"]
    return pd.DataFrame(rows, columns=names)


def run_stock(clips: pd.DataFrame, cache: Path, out: Path, dimension: str) -> dict[str, float]:
    """Path to score, by VBench's own call."""
    from vbench import VBench

    prompts = {Path(row.path).name: row.prompt for row in clips.itertuples()}
    with offline(cache, out), quiet():
        point_to_cache(cache)
        VBench(torch.device("cpu"), str(full_info_path()), str(out)).evaluate(
            str(Path(clips["path"][0]).parent),
            dimension,
            prompt_list=prompts,
            dimension_list=[dimension],
            local=True,
            mode="custom_input",
        )
    _, found = json.loads((out / f"{dimension}_eval_results.json").read_text())[dimension]
    scale = 0.01 if dimension == "imaging_quality" else 1.0
    return {clip["video_path"]: clip["video_results"] * scale for clip in found}


def measure(clips: pd.DataFrame, cache: Path, folder: Path, turn: int) -> tuple[dict[str, float], float]:
    """Seconds of each, and the largest difference of a score."""
    seconds, theirs, ours = {}, {}, pd.DataFrame()
    for name in ("stock", "ours") if turn % 2 == 0 else ("ours", "stock"):
        start = time.perf_counter()
        if name == "stock":
            theirs = {dimension: run_stock(clips, cache, folder / f"s{turn}", dimension) for dimension in DIMENSIONS}
        else:
            ours = score_vbench(clips, DIMENSIONS, Scoring(cache, folder / f"o{turn}"))
        seconds[name] = time.perf_counter() - start
    paths = clips.set_index("prompt_index")["path"]
    return seconds, max(abs(row.value - theirs[row.metric][paths[row.prompt_index]]) for row in ours.itertuples())


def main() -> None:
    """Print the seconds, their ratio and the largest difference; write them as JSON if asked."""
    sys.path.remove(str(Path(__file__).parent.resolve()))  # else this file would be the package of its name
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("clips", 3), ("frames", 17), ("height", 256), ("width", 448), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    standins = load_standins()
    with tempfile.TemporaryDirectory() as name:
        folder, cache = Path(name), Path(name) / "cache"
        with offline(cache, folder), quiet():
            standins.put_vocabulary(cache)
            import vbench.utils  # noqa: F401

            point_to_cache(cache)
            standins.write_all(cache)
        clips = make_clips(folder / "clips", options)
        with standins.shallow():
            measure(clips, cache, folder, -1)  # imports and first calls
            turns = [measure(clips, cache, folder, turn) for turn in range(options.repeats)]
    result = {name: statistics.median(seconds[name] for seconds, _ in turns) for name in ("stock", "ours")}
    result |= {"ours / stock": result["ours"] / result["stock"], "largest difference": max(d for _, d in turns)}
    result |= {"weights": "random stand-ins", "dimensions": DIMENSIONS, "torch threads": torch.get_num_threads()}
    text = json.dumps({k: v for k, v in vars(options).items() if k != "json"} | result, indent=1)
    sys.stdout.write(text + "\n")
    if options.json:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
