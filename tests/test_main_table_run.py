"""Both environments of the main table from end to end: tiny models of the true classes, stand-ins for peers' weights.

The environment that is run extends the shipped one and only makes it small, so that rows, claims and published figures
are the shipped ones. Every run is a real `kedro run` in a process of its own, so that one can be killed.
"""

import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import torch
import yaml

from tests.conf_files import loader_of_conf
from tests.diffusion.rrdb_files import real_esrgan_file
from tests.wan_names import merged, randomise, write_wan_file
from vibe_pipeline.diffusion.lora_formats import import_adapter
from vibe_pipeline.generation.peer_weights import PEER_FILES, PeerFile

ROOT = Path(__file__).parents[1]
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
# As the files of both releases hold their tensors, in Wan's names: CineScale's plainly, UltraWan's below `state_dict`.
LORAS = {"cinescale_1_3b": lambda state: state, "ultrawan_1k": lambda state: {"state_dict": state, "epoch": 1}}
# A row that nobody fetched the weights of.
ABSENT = {
    "method": "direct",
    "label": "UltraWan-4K",
    "extra_adapters": [{"path": "${globals:folders.peers}/ultrawan_4k/pytorch_lora_weights.safetensors"}],
    "optional": True,
}
SMALL = ("--env=small",)


def put_stand_in(entry: PeerFile, tiny: Any, peers: Path) -> None:
    """A file in the layout of the release's, where `fetch-weights` puts it; a LoRA is imported."""
    place = entry.place(peers)
    place.parent.mkdir(parents=True)
    if entry.name in LORAS:
        published = place.with_name(entry.file)
        torch.save(LORAS[entry.name](merged(tiny.transformer(), "default")), published)
        import_adapter(published, place.parent, base=tiny.transformer())
    elif entry.rrdb:
        real_esrgan_file(place.parent)
    else:
        write_wan_file(randomise(tiny.transformer(), 1), place)


def project(folder: Path, name: str, tiny: Any) -> Path:
    """A copy of the project with an environment `small` that extends the table's, and the peers' weights in place."""
    shutil.copytree(ROOT / "conf", folder / "conf")
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", ".telemetry"):
        shutil.copy(ROOT / file, folder)
    (folder / "conf/local").mkdir(exist_ok=True)
    shipped = loader_of_conf(ROOT / "conf", name)
    rows, peers = shipped["parameters"]["arms"], Path(shipped["globals"]["folders"]["peers"])
    for entry in PEER_FILES:
        if str(entry.place(peers)) in str(rows):
            put_stand_in(entry, tiny, folder / peers)
    (folder / "conf/small").mkdir()
    (folder / "conf/small/parameters.yml").write_text(yaml.safe_dump(made_small(name, rows, tiny)))
    return folder


def made_small(name: str, rows: Any, tiny: Any) -> dict[str, Any]:
    """What the environment `small` says: other sizes, few steps, and one row without weights."""
    small = {"steps": 2, "guidance_scale": 1.0}
    model = tiny.model(text_length=64, dtype="float32", tile=None, vae_dtype="float32", offload=False).model_dump(
        mode="json"
    )
    high, low = ({k: model[which][k] for k in ("height", "width")} for which in ("target", "native"))
    return {
        "extends": name,
        "model": model,
        "data": {"source": "miniature", "count": 4, "held_out": 1, "buckets": "single", "low": low, "high": high},
        "generation": {"count": 2, "native_steps": 1, "native_guidance_scale": 1.0},
        "evaluation": {"fine_band": [8.0, high["height"] / 2 - 8.0], "bootstrap_samples": 50},
        "stage1": {"modality": TRAINING},
        "adapters": {row: TRAINING | {"attention": GCLF} for row in ("full", "full_pixel")},
        "arms": {row: small | FITTING.get(row, {}) for row in rows} | {"absent": ABSENT},
    }


def test_the_whole_table_of_the_5b_is_made(wan22, tmp_path: Path, faults: ModuleType) -> None:
    folder = project(tmp_path / "straight", "main_table_5b", wan22)
    assert faults.attempt(folder, options=SMALL)
    require_the_whole_table(folder, "main_table_5b")


def test_the_whole_table_of_the_1_3b_is_made_and_a_killed_run_goes_on_to_the_same(
    wan21, tmp_path: Path, faults: ModuleType
) -> None:
    straight, killed = (project(tmp_path / which, "main_table_1_3b", wan21) for which in ("straight", "killed"))
    assert faults.attempt(straight, options=SMALL)
    require_the_whole_table(straight, "main_table_1_3b")

    whole = faults.finished(straight)
    clips = [piece for piece, (kind, _) in whole.items() if kind == "clips"]
    assert not faults.attempt(killed, pieces=len(clips) // 2, kind="clips", options=SMALL)
    seen = faults.finished(killed)
    assert len(clips) // 2 <= sum(kind == "clips" for kind, _ in seen.values()) < len(clips), "in the middle"
    assert not (killed / "data/08_reporting/ablation_table.csv").exists()
    assert faults.attempt(killed, options=SMALL)
    now = faults.finished(killed)
    assert now.keys() == whole.keys()
    assert not faults.made_again(seen, now), "what was finished is not made again"
    assert faults.results(killed) == faults.results(straight)
    tables = [(folder / "data/08_reporting/ablation_table.csv").read_bytes() for folder in (straight, killed)]
    assert tables[0] == tables[1]


def require_the_whole_table(folder: Path, name: str) -> None:
    """Every shipped row is scored on every prompt, the row without weights says so, and the page tells of both."""
    arms = set(loader_of_conf(ROOT / "conf", name)["parameters"]["arms"])
    table = pd.read_csv(folder / "data/08_reporting/ablation_table.csv")
    assert set(table["arm"]) == arms | {"absent"}
    flicker = table[table["metric"] == "temporal_flickering"].set_index("arm")
    assert flicker.loc["absent", "status"] == "not run"
    assert (flicker.drop(index="absent")["status"] == "scored").all()
    assert flicker.loc["full", "training_seeds"] == flicker.loc["full_pixel", "training_seeds"] == 3
    overall = table[table["metric"] == "overall6"].set_index("arm").drop(index="absent")
    assert overall["mean"].isna().all() and overall["reason"].str.contains("no score of subject_consistency").all()

    page = (folder / "data/08_reporting/report/index.html").read_text()
    for said in ("most likely crosses base models", "CineScale, second release", "at least 0.0080", "T3-Video", "+0.8"):
        assert said in page, said
    assert "ultrawan_4k/pytorch_lora_weights.safetensors does not exist" in page
