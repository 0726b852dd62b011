"""The default graph on a tiny random checkpoint, one node at a time and on a local Ray cluster: are the tables equal?

    python benchmarks/ray_run.py [--cpus 2] [--json out.json]

Two copies of the project run in their own folders, so that neither finds the other's work. Prints both wall times, the
largest difference of each table, and what MLflow has of both.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from mlflow import MlflowClient

ROOT = Path(__file__).parents[1]
TABLES = ("ablation_table.csv", "degradation_checks.csv", "scores.parquet")
SMALL = {"native": (32, 32), "target": (64, 64), "low": (32, 32), "high": (64, 64)}


def build_model(folder: Path) -> Path:
    """The tiny checkpoint of the tests."""
    sys.path.insert(0, str(ROOT / "tests"))
    from conftest import build_checkpoint

    return build_checkpoint("wan21", folder)


def copy_project(folder: Path, model: Path) -> Path:
    """The project's code and parameters, with few images, prompts and steps."""
    shutil.copytree(ROOT / "conf", folder / "conf")
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", ".telemetry"):
        shutil.copy(ROOT / name, folder)
    path, tables = folder / "conf/base/parameters.yml", folder / "conf/base/experiment.yml"
    params = yaml.safe_load(path.read_text()) | yaml.safe_load(tables.read_text())
    tables.unlink()
    sizes = {name: dict(zip(("height", "width"), side, strict=True)) for name, side in SMALL.items()}
    clip = {"frames": 5, "fps": 8}
    params["model"] |= {"path": str(model), "text_length": 16}
    params["model"] |= {name: sizes[name] | clip for name in ("native", "target")}
    params["data"] |= {"count": 12, "low": sizes["low"], "high": sizes["high"], "held_out": 2}
    params["generation"] |= {"count": 3, "native_steps": 2}
    params["evaluation"] |= {"bootstrap_samples": 100}
    for row in [*params["stage1"].values(), *params["adapters"].values()]:
        row |= {"steps": 2, "batch_size": 2, "log_every": 1}
    for arm in params["arms"].values():
        arm |= {"steps": 2} if arm.get("method", "refine") == "refine" else {}
    path.write_text(yaml.safe_dump(params))
    return folder


def run(project: Path, *options: str) -> float:
    """`kedro run` in the copy; seconds.

    Raises:
        RuntimeError: It failed; with the end of its log.
    """
    environment = os.environ | {"PYTHONPATH": str(project / "src"), "OMP_NUM_THREADS": "1"}
    environment.pop("RAY_ADDRESS", None)
    start = time.monotonic()
    command = [str(Path(sys.executable).with_name("kedro")), "run", *options]
    ended = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    (project / "run.log").write_text(ended.stdout + ended.stderr)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command)} failed; {project}/run.log ends:\n{ended.stderr[-3000:]}")
    return time.monotonic() - start


def compare(one: Path, other: Path) -> dict[str, Any]:
    """Per table: rows, cells of text that differ, largest difference of a number; 0 and 0 mean equal."""
    found = {}
    for name in TABLES:
        read = pd.read_csv if name.endswith("csv") else pd.read_parquet
        a, b = (read(project / "data/08_reporting" / name) for project in (one, other))
        numbers = a.select_dtypes("number").columns
        texts = a.columns.difference(numbers)
        pd.testing.assert_index_equal(a.columns, b.columns)
        found[name] = {
            "rows": [len(a), len(b)],
            "texts_that_differ": int((a[texts].fillna("") != b[texts].fillna("")).to_numpy().sum()),
            "largest_difference": float((a[numbers] - b[numbers]).abs().max().max()),
            "missing_differ": int((a[numbers].isna() != b[numbers].isna()).to_numpy().sum()),
        }
    return found


def tracked(project: Path) -> dict[str, int]:
    """How many MLflow runs there are of each kind, status and relation to the run of the whole."""
    client = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("vibe_pipeline").experiment_id])
    parent = next(r.info.run_id for r in runs if r.data.tags["kind"] == "run")
    related = {parent: "child", None: "parent"}
    named = [(r.data.tags["kind"], r.info.status, related[r.data.tags.get("mlflow.parentRunId")]) for r in runs]
    return dict(sorted(Counter(map(" ".join, named)).items()))


def main() -> None:
    """Run both, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpus", type=int, default=2, help="of the local Ray cluster")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="ray_run_"))
    model = build_model(folder / "model")
    sequential, cluster = (copy_project(folder / name, model) for name in ("sequential", "cluster"))
    figures: dict[str, Any] = {"sequential_seconds": round(run(sequential), 1)}
    options = ("--runner=vibe_pipeline.runtime.ray_runner.RayRunner", f"--runner-params=cpus={given.cpus},gpus=0")
    figures |= {"ray_seconds": round(run(cluster, *options), 1), "cpus": given.cpus}
    figures["tables"] = compare(sequential, cluster)
    figures["mlflow"] = {project.name: tracked(project) for project in (sequential, cluster)}
    text = json.dumps(figures, indent=1)
    if given.json is not None:
        given.json.write_text(text + "\n")
    sys.stdout.write(text + "\n")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
