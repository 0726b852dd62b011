"""Both environments of the main table from end to end: tiny models of the true classes, stand-ins for peers' weights.

The environment that is run extends the shipped one and only makes it small, so that rows, claims and published figures
are the shipped ones.
"""

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from kedro.framework.project import configure_project
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project

from tests.conf_files import loader_of_conf
from tests.diffusion.rrdb_files import real_esrgan_file
from tests.wan_names import randomise, write_wan_file
from vibe_pipeline.diffusion import lora
from vibe_pipeline.diffusion.lifetime import released
from vibe_pipeline.generation.methods.direct import Direct

ROOT = Path(__file__).parents[1]
MODELS = {"main_table_1_3b": "wan21", "main_table_5b": "wan22"}
TRAINING = {
    "lora": {"rank": 2, "alpha": 2},
    "steps": 2,
    "checkpoint_every": 1,
    "validate_every": None,
    "autocast": False,
}
GCLF, WINDOW = ({"kind": kind, "half_window": [1, 1]} for kind in ("gclf", "window"))
# What has to fit a grid of 2 x 4 x 6 tokens, native 2 x 2 x 3.
FITTING: dict[str, dict[str, Any]] = {
    "full": {"attention": GCLF},
    "full_pixel": {"attention": GCLF},
    "full_pixel_transfer": {"attention": GCLF},
    "t3": {"attention": {"kind": "t3", "groups": [[2, 1, 1], [1, 2, 3]]}},
    "freeswim": {"attention": WINDOW | {"scale": "freeswim"}},
    "cinescale_ar": {"rope": {"kind": "ar", "tile": [2, 3], "reach": [3, 5], "near": [1, 1]}},
}


def stand_ins(tiny: Any, folder: Path) -> dict[str, dict[str, Any]]:
    """Files for every row that names one, in the layout of the real files; of UltraWan there is none."""
    folder.mkdir()
    with released(tiny.transformer()) as other:
        own = write_wan_file(randomise(other, 1), folder / "t3.safetensors")
        lora.add_adapter(other, "x", 2, 2.0, ("to_q", "to_v"), 0)
        trained = lora.save_adapter(other, "x", folder / "cinescale")
    return {
        "sr": {"sr": {"weights": str(real_esrgan_file(folder / "sr"))}},
        "t3": {"transformer": {"path": str(own)}},
        "cinescale_lora": {"extra_adapters": [{"path": str(trained)}]},
        "ultrawan": {"extra_adapters": [{"path": str(folder / "gone.safetensors")}]},
    }


def project(folder: Path, name: str, tiny: Any) -> Path:
    """A copy of the project with an environment `small` that extends the table's."""
    shutil.copytree(ROOT / "conf", folder / "conf")
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", ".telemetry"):
        shutil.copy(ROOT / file, folder)
    (folder / "conf/local").mkdir(exist_ok=True)
    rows = loader_of_conf(ROOT / "conf", name)["parameters"]["arms"]
    files = stand_ins(tiny, folder / "weights")
    small = {"steps": 2, "guidance_scale": 1.0}
    model = tiny.model(text_length=64, dtype="float32", tile=None, vae_dtype="float32", offload=False).model_dump(
        mode="json"
    )
    high, low = ({k: model[which][k] for k in ("height", "width")} for which in ("target", "native"))
    written = {
        "extends": name,
        "model": model,
        "data": {"source": "miniature", "count": 4, "held_out": 1, "buckets": "single", "low": low, "high": high},
        "generation": {"count": 1, "native_steps": 1, "native_guidance_scale": 1.0},
        "evaluation": {"fine_band": [8.0, high["height"] / 2 - 8.0], "bootstrap_samples": 50},
        "stage1": {"modality": TRAINING},
        "adapters": {row: TRAINING | {"attention": GCLF} for row in ("full", "full_pixel")},
        "arms": {row: small | FITTING.get(row, {}) | files.get(row, {}) for row in rows},
    }
    (folder / "conf/small").mkdir()
    (folder / "conf/small/parameters.yml").write_text(yaml.safe_dump(written))
    return folder


def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    bootstrap_project(folder)
    configure_project("vibe_pipeline")
    with KedroSession.create(folder, env="small") as session:
        session.run()


@pytest.mark.parametrize("name", MODELS)
def test_the_whole_table_is_made_and_gone_on_with_after_a_fault(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = project(tmp_path / "project", name, request.getfixturevalue(MODELS[name]))
    with monkeypatch.context() as faulty:

        def fail(*_: Any) -> None:
            raise OSError("the disk went away")

        faulty.setattr(Direct, "prepare", fail)
        with pytest.raises(OSError, match="the disk went away"):
            run(folder, faulty)
    made = {path: path.stat().st_mtime_ns for path in (folder / "data/07_model_output").rglob("*.mp4")}
    run(folder, monkeypatch)
    assert {path: path.stat().st_mtime_ns for path in made} == made, "what was there is not made again"

    arms = set(loader_of_conf(ROOT / "conf", name)["parameters"]["arms"])
    table = pd.read_csv(folder / "data/08_reporting/ablation_table.csv")
    assert set(table["arm"]) == arms
    flicker = table[table["metric"] == "temporal_flickering"].set_index("arm")
    gone = {"ultrawan"} & arms
    assert set(flicker.index[flicker["status"] == "not run"]) == gone
    assert (flicker.drop(index=list(gone))["status"] == "scored").all()
    assert flicker.loc["full", "training_seeds"] == 3
    overall = table[table["metric"] == "overall6"].set_index("arm").drop(index=list(gone))
    assert overall["mean"].isna().all() and overall["reason"].str.contains("no score of subject_consistency").all()

    page = (folder / "data/08_reporting/report/index.html").read_text()
    for said in ("most likely crosses base models", "CineScale, second release", "at least 0.0080", "T3-Video", "+0.8"):
        assert said in page, said
    if gone:
        assert page.count("gone.safetensors does not exist") > 1
