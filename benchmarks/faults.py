"""Kill a run at random moments until it gets through; compare with an undisturbed one.

Every attempt is the same command, `kedro run --runner=ParallelRunner`, killed with all its workers by SIGKILL after
a random time. At the end: did any adapter, clip or score differ, and was any finished piece made again?

    python benchmarks/faults.py --kills 100 --json faults.json
"""

import argparse
import hashlib
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import yaml

ROOT = Path(__file__).parents[1]
# What one run makes, piece by piece: a piece that is there under its name is finished.
PIECES = {
    "latent shards": "data/05_model_input/**/*.safetensors",
    "adapters": "data/06_models/adapters/*/manifest.json",
    "clips": "data/07_model_output/clips/**/*.json",
    "scores": "data/07_model_output/measured/**/*.parquet",
}
OPTIONS = ("--runner=ParallelRunner",)
RESULTS = ("data/06_models/adapters/*/pytorch_lora_weights.safetensors", "data/07_model_output/clips/**/*.mp4")


def make_project(folder: Path, arms: int, images: int = 80, steps: int = 24) -> Path:
    """A copy of the project, small enough that one run takes a minute."""
    shutil.copytree(ROOT / "conf", folder / "conf")
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", ".telemetry"):
        shutil.copy(ROOT / name, folder)
    path, tables = folder / "conf/base/parameters.yml", folder / "conf/base/experiment.yml"
    params = yaml.safe_load(path.read_text()) | yaml.safe_load(tables.read_text())
    tables.unlink()
    params["model"]["path"] = str(ROOT / params["model"]["path"])
    params["data"] |= {"count": images, "held_out": 4}
    params["generation"] |= {"count": 4, "native_steps": 4, "batch_size": 1}
    params["evaluation"] |= {"bootstrap_samples": 200}
    for row in [*params["stage1"].values(), *params["adapters"].values()]:
        row |= {"steps": steps, "batch_size": 4, "checkpoint_every": 4, "log_every": 4}
    kept = dict(list(params["arms"].items())[:arms])
    params["arms"] = kept | {k: v for k, v in params["arms"].items() if v.get("method") == "upsample"}
    used = {arm["adapter"] for arm in params["arms"].values() if arm.get("adapter")}
    params["adapters"] = {k: v for k, v in params["adapters"].items() if k in used}
    path.write_text(yaml.safe_dump(params))
    return folder


def attempt(
    project: Path,
    seconds: float | None = None,
    pieces: int | None = None,
    kind: str | None = None,
    options: Sequence[str] = OPTIONS,
) -> bool:
    """Run, and kill the run and all its workers after `seconds`, or once so many `pieces` are finished.

    Args:
        project: Its folder.
        seconds: After how long; None: never.
        pieces: After how many, with those of earlier attempts; None: never.
        kind: Which pieces count, a key of :data:`PIECES`; None: all.
        options: Of `kedro run`.

    Returns:
        Whether it got through first.
    """
    command = [sys.executable, "-m", "kedro", "run", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    with (project / "run.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=project, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        end = math.inf if seconds is None else time.monotonic() + seconds
        while (code := process.poll()) is None:
            if time.monotonic() > end or (pieces is not None and _count(project, kind) >= pieces):
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return False
            time.sleep(0.05)
    if code:
        sys.exit(f"the run failed by itself, see {project / 'run.log'}:\n{(project / 'run.log').read_text()[-2000:]}")
    return True


def _count(project: Path, kind: str | None) -> int:
    return sum(kind in (None, of) for of, _ in finished(project).values())


def finished(project: Path) -> dict[str, tuple[str, int]]:
    """Finished pieces: kind and time of writing."""
    return {
        str(path.relative_to(project)): (kind, path.stat().st_mtime_ns)
        for kind, pattern in PIECES.items()
        for path in project.glob(pattern)
        if not path.name.startswith(".")  # still being written
    }


def made_again(seen: dict[str, tuple[str, int]], now: dict[str, tuple[str, int]]) -> Counter[str]:
    """How many pieces of each kind were finished before and have been written since."""
    return Counter(kind for name, (kind, when) in now.items() if name in seen and seen[name][1] != when)


def results(project: Path) -> dict[str, str]:
    """Hashes of adapters and clips by name, and the score table without what clocks say."""
    found = {
        str(path.relative_to(project)): hashlib.sha256(path.read_bytes()).hexdigest()
        for pattern in RESULTS
        for path in project.glob(pattern)
        if not path.name.startswith(".")  # half a file of a process that was killed
    }
    scores = pd.read_parquet(project / "data/08_reporting/scores.parquet")
    columns = ["arm", "prompt_index", "seed", "metric", "value"]
    table = scores[columns].sort_values(columns[:-1]).round(6).to_csv(index=False)
    return found | {"scores": hashlib.sha256(table.encode()).hexdigest()}


def torture(project: Path, kills: int, longest: float, rng: random.Random) -> dict[str, object]:
    """Kill `kills` times, starting over from nothing whenever the run got through, then let it end."""
    done, redone, times, through = 0, Counter(), [], 0
    seen = finished(project)
    while done < kills:
        seconds = rng.uniform(3, max(4.0, longest))
        begun = time.monotonic()
        if attempt(project, seconds):
            through += 1
            shutil.rmtree(project / "data")
            seen = {}
            continue
        done += 1
        times.append(time.monotonic() - begun)
        now = finished(project)
        redone.update(made_again(seen, now))
        seen = now
        print(f"kill {done} after {times[-1]:.0f} s; finished pieces {len(now)}, redone so far {sum(redone.values())}")
    attempt(project, None)
    now = finished(project)
    redone.update(made_again(seen, now))
    return {"kills": done, "got through and started over": through, "redone": {kind: redone[kind] for kind in PIECES}}


def main() -> None:
    """Undisturbed, then killed, then compared."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--arms", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        straight, killed = (make_project(Path(folder) / name, options.arms) for name in ("straight", "killed"))
        begun = time.monotonic()
        attempt(straight, None)
        longest = time.monotonic() - begun
        report = torture(killed, options.kills, longest, random.Random(options.seed))
        one, two = results(straight), results(killed)
        report |= {
            "seconds of an undisturbed run": round(longest, 1),
            "results compared": len(one),
            "results that differ": sorted(k for k in one.keys() | two.keys() if one.get(k) != two.get(k)),
        }
    print(json.dumps(report, indent=1))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    sys.exit(bool(report["results that differ"] or sum(report["redone"].values())))


if __name__ == "__main__":
    main()
