"""How an arm's clips grow: time and memory of a run in which nothing changed, at 1, 10 and 100 times the miniature's.

Stand-in clips of a few bytes with true manifests; what is timed is the code of a run: keys, manifests, the table.

    python benchmarks/scale.py [--json scale.json]
"""

import argparse
import json
import tempfile
import time
import tracemalloc
from contextlib import AbstractContextManager
from pathlib import Path

import pandas as pd

from vibe_pipeline.generation.clip_cache import ClipJob, Make, Scale, make_clips, manifest_path
from vibe_pipeline.io.files import write_json

CLIPS, FACTORS = 16, (1, 10, 100)  # the miniature's clips an arm


def nothing_missing() -> AbstractContextManager[Make]:
    """Models, which a run in which nothing changed must not load."""
    raise AssertionError("a clip counts as missing")


def stand_ins(job: ClipJob, prompts: pd.DataFrame) -> None:
    """A clip, its preview and its manifest for every prompt, under the names that the job gives them."""
    from vibe_pipeline.generation import clip_cache

    for row in prompts.to_dict("records"):
        placed = row | clip_cache._place(row, job)
        for path in (placed["path"], placed["preview_path"]):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_bytes(b"clip")
        write_json(manifest_path(placed), {"key": placed["key"], "bytes": 4, "seconds": 1.0, "settings": job.settings})


def measure(count: int) -> dict[str, float]:
    """Seconds and peak MB of going through an arm of so many clips that are all there."""
    prompts = pd.DataFrame({"prompt_index": range(count), "prompt": [f"prompt {i}" for i in range(count)], "seed": 0})
    with tempfile.TemporaryDirectory() as folder:
        job = ClipJob("arm", {"steps": 6}, Path(folder), Scale(128, 128, 9, 8.0), nothing_missing, 1)
        stand_ins(job, prompts)
        tracemalloc.start()
        begun = time.process_time()
        made = make_clips(prompts, job)
        seconds, (_, peak) = time.process_time() - begun, tracemalloc.get_traced_memory()
        tracemalloc.stop()
    if len(made) != count:
        raise AssertionError(f"{len(made)} of {count} clips came back")
    return {"clips": count, "seconds": seconds, "ms_a_clip": 1e3 * seconds / count, "peak_mb": peak / 1e6}


def main() -> None:
    """Measure, print, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    measure(CLIPS)  # imports and caches
    rows = [measure(CLIPS * factor) for factor in FACTORS]
    print(f"{'clips':>8}{'CPU s':>10}{'ms a clip':>12}{'peak MB':>10}")
    for row in rows:
        print(f"{row['clips']:>8}{row['seconds']:>10.3f}{row['ms_a_clip']:>12.3f}{row['peak_mb']:>10.2f}")
    print(f"1,000 clips of 20 arms: {rows[-1]['ms_a_clip'] * 20:.1f} s; goal 10")
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
