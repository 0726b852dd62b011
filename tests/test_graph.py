"""The whole graph on a tiny random checkpoint: it runs, it is tracked, and a second run does nothing again."""

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml
from kedro.framework.project import configure_project
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from mlflow import MlflowClient

from tests.conf_files import read_conf, write_conf
from tests.diffusion.rrdb_files import real_esrgan_file
from vibe_pipeline.io.files import read_json

ROOT = Path(__file__).parents[1]
REASON = "not run, because sr.weights: data/06_models/peers/gone/RealESRGAN_x4plus.pth does not exist"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, wan21) -> Path:
    """A copy of the project with a tiny model, two stage-2 steps and three prompts."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "conf", folder / "conf")
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", ".telemetry"):
        shutil.copy(ROOT / name, folder)
    (folder / "conf/local").mkdir(exist_ok=True)
    base = folder / "conf/base"
    claims = yaml.safe_load((base / "claims.yml").read_text())
    claims["claims"].append(
        claims["claims"][0] | {"name": "peer", "statement": "The full form beats Real-ESRGAN", "other": "gone"}
    )
    (base / "claims.yml").write_text(yaml.safe_dump(claims))
    params = read_conf(base)
    params["model"] |= {
        "path": str(wan21.path),
        "text_length": 16,
        "native": {"height": 32, "width": 32, "frames": 5, "fps": 8},
        "target": {"height": 64, "width": 64, "frames": 5, "fps": 8},
    }
    params["data"] |= {
        "count": 12,
        "low": {"height": 32, "width": 32},
        "high": {"height": 64, "width": 64},
        "held_out": 2,
    }
    params["generation"] |= {"count": 3, "native_steps": 2}
    params["evaluation"] |= {"bootstrap_samples": 100}
    for table in ("stage1", "adapters"):
        for row in params[table].values():
            row |= {"steps": 2, "batch_size": 2, "log_every": 1}
    params["adapters"]["full"] |= {"validate_every": 1, "validation_clips": 1}
    for arm in params["arms"].values():
        arm |= {"steps": 2} if arm.get("method", "refine") == "refine" else {}
    weights = real_esrgan_file(folder / "data/06_models/peers/stand_in").relative_to(folder)
    params["arms"]["sr"] = {"label": "Stand-in network", "method": "sr", "sr": {"weights": str(weights)}}
    gone = {"weights": "data/06_models/peers/gone/RealESRGAN_x4plus.pth"}
    params["arms"]["gone"] = {"label": "Real-ESRGAN", "method": "sr", "sr": gone, "optional": True}
    write_conf(base, params)
    return folder


def run(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `kedro run` does, in this process."""
    monkeypatch.chdir(project)
    bootstrap_project(project)
    configure_project("vibe_pipeline")
    with KedroSession.create(project) as session:
        session.run()


def require_kept_row(table: pd.DataFrame) -> pd.DataFrame:
    """The table without the arm that was not run, whose row says so on every metric."""
    gone, rest = table[table["arm"] == "gone"], table[table["arm"] != "gone"]
    assert gone["metric"].tolist() == rest.loc[rest["arm"] == "sr", "metric"].tolist()
    assert (gone["status"] == "not run").all() and (gone["reason"] == REASON).all() and gone["mean"].isna().all()
    return rest


def require_a_readable_ending(project: Path, said: list[str]) -> None:
    """A line for every node and one for VBench; the result last, with both addresses; the same in the run's file."""
    nodes = [message for message in said if re.match(r" *\d+ of \d+  \S", message)]
    total = int(nodes[0].split(" of ")[1].split()[0])
    assert f"{total} nodes, one after another" in said
    assert len(nodes) == total and nodes[-1].startswith(f"{total} of {total}  write_page")
    (vbench,) = (message for message in said if "VBench" in message)
    assert "1 of 8 dimensions scored; 7 need weights (`kedro vibe fetch-weights`): motion_smoothness, " in vbench
    table, ending = said[-1].strip().splitlines(), (project / "data/08_reporting/report/index.html").as_uri()
    assert table[0].startswith("arm ") and f"report   {ending}" in table
    assert table[-1].startswith("MLflow   http://127.0.0.1:5000/#/experiments/1/runs/")
    assert "?workflowType=machine_learning  (after" in table[-1]  # else MLflow shows the page of a language model's run
    claims = yaml.safe_load((project / "conf/base/claims.yml").read_text())
    assert sum(line.startswith(("✓", "✗", "?", "–")) for line in table) == len(claims["claims"])
    assert table[-1] in (project / "data/08_reporting/run.log").read_text()
    assert not (project / "data/.live").exists()


def test_the_default_graph_runs_is_tracked_and_is_idempotent(
    project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One run makes table, page and MLflow runs; a second makes no clip and trains no adapter."""
    caplog.set_level("INFO", "vibe_pipeline")
    run(project, monkeypatch)
    require_a_readable_ending(project, [r.getMessage() for r in caplog.records if r.name.startswith("vibe_pipeline")])
    table = pd.read_csv(project / "data/08_reporting/ablation_table.csv")
    assert list(table.columns[:7]) == ["arm", "metric", "mean", "ci_low", "ci_high", "n", "direction"]
    params = read_conf(project / "conf/base")
    assert set(table["arm"]) == set(params["arms"])  # one of them was not run
    table = require_kept_row(table)
    flicker = table[table["metric"] == "temporal_flickering"]
    assert (flicker["status"] == "scored").all() and flicker["mean"].between(0, 1).all()
    skipped = table[table["metric"] == "motion_smoothness"]
    assert skipped["mean"].isna().all() and skipped["reason"].str.contains("amt-s.pth").all()

    page = (project / "data/08_reporting/report/index.html").read_text()
    assert "published" in page and "data:video/mp4" in page
    assert "Real-ESRGAN" in page and "Stand-in network" in page and page.count(REASON) > 1
    assert read_json(project / "data/08_reporting/not_run_arms.json")["gone"]["reason"] == REASON

    client = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("vibe_pipeline").experiment_id])
    by_kind = {kind: [r for r in runs if r.data.tags["kind"] == kind] for kind in ("run", "adapter", "arm")}
    assert [len(v) for v in by_kind.values()] == [1, len(params["adapters"]) + 1, len(params["arms"]) - 1]
    assert by_kind["run"][0].data.tags["not_run.gone"] == REASON
    assert {r.info.status for r in runs} == {"FINISHED"}
    parent = by_kind["run"][0].info.run_id
    assert {r.data.tags["mlflow.parentRunId"] for r in by_kind["adapter"] + by_kind["arm"]} == {parent}
    full = next(r for r in by_kind["adapter"] if r.data.tags["row"] == "full")
    assert len(client.get_metric_history(full.info.run_id, "train/loss")) == 2
    assert full.data.params["objective.hfato"] == "1.0"
    files = client.list_logged_model_artifacts(full.data.tags["model_id"])
    assert {a.path for a in files} == {"MLmodel", "pytorch_lora_weights.safetensors"}
    assert not [name for name in by_kind["run"][0].data.params if name.startswith("_")]
    assert "compare-runs" in by_kind["run"][0].data.tags["mlflow.note.content"]
    arm = next(r for r in by_kind["arm"] if r.data.tags["row"] == "full")
    (read,) = client.get_run(arm.info.run_id).inputs.model_inputs  # a search leaves them out
    assert [read.model_id] == [full.data.tags["model_id"]]
    events = read_json(project / ".viz/kedro_pipeline_events.json")
    ended = {e["node"]: e["status"] for e in events if e["event"] == "after_node_run"}
    assert {"arms.full.generate", "adapters.full.train", "write_page"} < set(ended)
    assert set(ended.values()) == {"success"}

    assert len(client.list_artifacts(full.info.run_id, "validation")) == 2

    made = {p: p.stat().st_mtime_ns for p in (project / "data/07_model_output").rglob("*.mp4")}
    made |= {p: p.stat().st_mtime_ns for p in (project / "data").rglob("pytorch_lora_weights.safetensors")}
    run(project, monkeypatch)
    assert {p: p.stat().st_mtime_ns for p in made} == made
    # Nothing changed: the second run adds itself alone, and the reports of both are there if they differ.
    assert len(client.search_runs([by_kind["run"][0].info.experiment_id])) == len(runs) + 1
    assert (project / "data/08_reporting/reports/index.html").exists()


def test_a_copied_and_moved_project_goes_on_with_all_that_it_has(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is trained, rendered or measured again, nor written where it was born, and no file names that place."""
    if not (project / "data/08_reporting/ablation_table.csv").exists():
        run(project, monkeypatch)
    born = {p: p.stat().st_mtime_ns for p in project.rglob("*") if p.is_file()}
    moved = tmp_path / "moved here"
    shutil.copytree(project, tmp_path / "copy")
    shutil.move(tmp_path / "copy", moved)
    suffixes = {".mp4", ".mkv", ".safetensors", ".parquet", ".png"}
    made = [p for p in (moved / "data").rglob("*") if p.suffix in suffixes and "08_reporting" not in p.parts]
    expensive = {p: p.stat().st_ino for p in made if not p.name.startswith("scores_")}
    table = (moved / "data/08_reporting/ablation_table.csv").read_bytes()
    run(moved, monkeypatch)
    assert len(expensive) > 30 and {p: p.stat().st_ino for p in expensive} == expensive
    assert (moved / "data/08_reporting/ablation_table.csv").read_bytes() == table
    assert {p: p.stat().st_mtime_ns for p in project.rglob("*") if p.is_file()} == born
    inside = [p for p in moved.rglob("*") if p.is_file() and "src" not in p.parts]
    assert [p for p in inside if str(project).encode() in p.read_bytes() and p.suffix != ".db"] == []
    client = MlflowClient(f"sqlite:///{moved / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("vibe_pipeline").experiment_id])
    assert all(r.info.artifact_uri.startswith((moved / "mlartifacts").as_uri()) for r in runs)
    assert all(client.list_artifacts(r.info.run_id) for r in runs if r.data.tags["kind"] == "run")


def test_a_wrong_value_is_refused_before_anything_runs(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the field, and nothing was written."""
    path = project / "conf/base/parameters.yml"
    before = path.read_text()
    params = yaml.safe_load(before)
    params["arms"]["full"]["strength"] = 1.5
    path.write_text(yaml.safe_dump(params, sort_keys=False))
    made = sorted((project / "data").rglob("*.mp4"))
    try:
        with pytest.raises(Exception, match="strength"):
            run(project, monkeypatch)
    finally:
        path.write_text(before)
    assert sorted((project / "data").rglob("*.mp4")) == made


def test_a_run_that_stops_after_the_preview_has_no_expensive_node(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts, native clips, sheet; the default graph and the registry are that short."""
    monkeypatch.chdir(project)
    bootstrap_project(project)
    configure_project("vibe_pipeline")
    shutil.rmtree(project / "data/08_reporting", ignore_errors=True)
    with KedroSession.create(
        project, runtime_params={"generation": {"stop_after_preview": True, "count": 2}}
    ) as session:
        session.run()
    assert [p.name for p in sorted((project / "data/08_reporting/report/preview").iterdir())] == [
        "clips",
        "sheet_1.png",
    ]
    assert not (project / "data/08_reporting/ablation_table.csv").exists()
    client = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    newest = client.search_runs([client.get_experiment_by_name("vibe_pipeline").experiment_id], "tags.kind = 'run'")[0]
    assert {a.path for a in client.list_artifacts(newest.info.run_id, "preview")} > {"preview/sheet_1.png"}
