"""How a run in which nothing changed grows: at 1, 10 and 100 times the miniature's table of clips, and of its images.

Stand-in clips, scores and shards of a few bytes with true manifests; what is timed is the code of a run: going through
the clips of an arm, through what was measured of them, through all arms' scores, and through the cache of latents.

    python benchmarks/scale.py [--json scale.json]
"""

import argparse
import json
import logging
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from kedro.framework.startup import bootstrap_project
from safetensors.torch import save_file

from vibe_pipeline.commands.options import Chosen, parameters_of
from vibe_pipeline.diffusion.models import find_model
from vibe_pipeline.evaluation import measure
from vibe_pipeline.evaluation.metrics.measures import Measured, measures_for
from vibe_pipeline.evaluation.statistics import summarise
from vibe_pipeline.experiment.data import DataParams
from vibe_pipeline.experiment.evaluation import EvaluationParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.generation import clip_cache
from vibe_pipeline.generation.clip_cache import ClipJob, Make, Scale, make_clips, manifest_path
from vibe_pipeline.images import cache
from vibe_pipeline.io.files import write_json
from vibe_pipeline.vbench import run
from vibe_pipeline.vbench.jobs import Result, ScoringJob
from vibe_pipeline.vbench.run import Scoring
from vibe_pipeline.vbench.score import score_vbench

ARMS, CLIPS, IMAGES, FACTORS = 20, 16, 480, (1, 10, 100)  # clips are an arm's, as many as the miniature's
bootstrap_project(Path(__file__).parents[1])
SETTINGS = parameters_of(Chosen())


def nothing_missing() -> AbstractContextManager[Make]:
    """Models, which a run in which nothing changed must not load."""
    raise AssertionError("a clip counts as missing")


def prompts_of(count: int) -> pd.DataFrame:
    """So many prompts of one seed."""
    return pd.DataFrame({"prompt_index": range(count), "prompt": [f"prompt {i}" for i in range(count)], "seed": 0})


def stand_ins(job: ClipJob, prompts: pd.DataFrame) -> None:
    """A clip, its preview and its manifest for every prompt, under the names that the job gives them."""
    for row in prompts.to_dict("records"):
        placed = row | clip_cache._place(row, job)
        for path in (placed["path"], placed["preview_path"]):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_bytes(b"clip")
        write_json(manifest_path(placed), {"key": placed["key"], "bytes": 4, "seconds": 1.0, "settings": job.settings})


def timed(work: Callable[[], Any], units: int) -> dict[str, float]:
    """Processor seconds of a piece of work, its share a unit, and its peak MB in a second go, as tracing takes time."""
    begun = time.process_time()
    work()
    seconds = time.process_time() - begun
    tracemalloc.start()
    try:
        work()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return {"units": units, "seconds": seconds, "ms_a_unit": 1e3 * seconds / units, "peak_mb": peak / 1e6}


def clips(count: int) -> dict[str, float]:
    """Going through the clips of an arm, all there."""
    prompts = prompts_of(count)
    with tempfile.TemporaryDirectory() as folder:
        job = ClipJob("arm", {"steps": 6}, Path(folder), Scale(128, 128, 9, 8.0), nothing_missing, 1)
        stand_ins(job, prompts)

        def work() -> None:
            if len(make_clips(prompts, job)) != count:
                raise AssertionError("a clip is missing")

        return timed(work, count)


def measured(count: int) -> dict[str, float]:
    """Going through the scores of an arm's clips, all measured before."""
    evaluation, generation = EvaluationParams(**SETTINGS["evaluation"]), GenerationParams(**SETTINGS["generation"])
    native = prompts_of(count).assign(path="native.mp4", key=[f"native{i}" for i in range(count)])
    rows = prompts_of(count).assign(path="clip.mp4", reference_path="", method="refine")
    rows["key"] = [f"clip{i}" for i in range(count)]
    values = {one.name: 0.5 for one in measures_for()}
    spectrum = Measured(values, levels=np.zeros(72), cycles=np.arange(72) + 0.5)
    with tempfile.TemporaryDirectory() as folder:
        work = lambda: measure.measure_arm("arm", rows, native, evaluation, generation, Path(folder))  # noqa: E731
        with patch.object(measure, "_measured", lambda *_: (spectrum, {})):
            work()
        return timed(work, count)


def vbench(count: int) -> dict[str, float]:
    """Going through VBench's scores of an arm's clips, all scored before."""

    def results(_: Any, jobs: list[ScoringJob], __: Any) -> Iterator[Result]:
        yield from (Result(job.clip, name, 0.5) for job in jobs for name in job.dimensions)

    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        clip.write_bytes(b"clip")
        rows = prompts_of(count).assign(arm="arm", path=str(clip), fps=8.0, frames=9, height=144, width=144)
        rows["key"] = [f"clip{i}" for i in range(count)]
        scoring = Scoring(cache_dir=Path(folder) / "weights", work_dir=Path(folder) / "scores")
        work = lambda: score_vbench(rows, ["temporal_flickering"], scoring)  # noqa: E731
        with patch.object(run, "_results", results):
            work()
        return timed(work, count)


def tables(count: int) -> dict[str, float]:
    """Summing up the scores of all arms, as the report does; a unit is a clip of one arm."""
    rng, metrics = np.random.default_rng(0), [one.name for one in measures_for()]
    rows = [prompts_of(count).assign(arm=f"arm{i}", metric=metric) for i in range(ARMS) for metric in metrics]
    scores = pd.concat(rows, ignore_index=True).drop(columns="prompt")
    scores["value"] = rng.random(len(scores))
    scores = scores.assign(direction="higher", family="detail", status="scored", reason="")
    return timed(lambda: summarise(scores, "arm0"), ARMS * count)


def images(count: int) -> dict[str, float]:
    """Going through the cache of latents, all there."""
    usable = pd.DataFrame({"path": "image.png", "caption": "a caption", "sha256": [f"{i:064d}" for i in range(count)]})
    model, data = ModelParams(**SETTINGS["model"]), DataParams(**SETTINGS["data"])
    with tempfile.TemporaryDirectory() as folder:
        work = lambda: cache.build_cache(usable, find_model(model.path), model, data, Path(folder))  # noqa: E731

        def shards(texts: list[Any], pictures: list[Any], *_: Any) -> None:
            for shard in (*texts, *pictures):
                save_file({f"{row['sha256']}.low": torch.zeros(1) for row in shard.rows}, shard.path)

        with patch.object(cache, "encode_shards", shards):
            work()
        return timed(work, count)


PARTS = {
    "clips": (clips, CLIPS),
    "measured": (measured, CLIPS),
    "vbench": (vbench, CLIPS),
    "tables": (tables, CLIPS),
    "images": (images, IMAGES),
}


def measured_parts(factors: Sequence[int]) -> dict[str, list[dict[str, float]]]:
    """Print and return what every part takes at these multiples of the miniature's table."""
    found: dict[str, list[dict[str, float]]] = {}
    print(f"{'part':>10}{'units':>9}{'CPU s':>10}{'ms a unit':>12}{'peak MB':>10}")
    for name, (part, least) in PARTS.items():
        part(least)  # imports and what is kept in memory
        found[name] = [part(least * factor) for factor in factors]
        for row in found[name]:
            print(f"{name:>10}{row['units']:>9}{row['seconds']:>10.3f}{row['ms_a_unit']:>12.3f}{row['peak_mb']:>10.2f}")
    largest = sum(found[name][-1]["ms_a_unit"] for name in ("clips", "measured", "vbench", "tables"))
    print(f"by the last rates 1,000 clips of {ARMS} arms take {largest * ARMS:.1f} s; goal 10")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--factors", type=int, nargs="+", default=FACTORS, help="of the miniature's table")
    given = parser.parse_args(arguments)
    ours = logging.getLogger("vibe_pipeline")
    level = ours.level
    ours.setLevel(logging.WARNING)
    try:
        found = measured_parts(given.factors)
    finally:
        ours.setLevel(level)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
