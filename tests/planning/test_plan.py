"""The plan of an environment, and the doctor's findings."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from vibe_pipeline.config import ClipSize
from vibe_pipeline.planning.costs import MEASURE_SECONDS, measuring_memory
from vibe_pipeline.planning.doctor import Finding, examine, format_findings
from vibe_pipeline.planning.plan import make_plan
from vibe_pipeline.planning.table import duration, format_plan

ROOT = Path(__file__).parents[2]


@pytest.fixture
def params(tiny) -> dict[str, Any]:
    """The miniature's parameters with a tiny checkpoint."""
    content = yaml.safe_load((ROOT / "conf/base/parameters.yml").read_text())
    content["model"] |= tiny.model().model_dump(mode="json", include={"path", "native", "target", "text_length"})
    sizes = content["model"]
    content["data"] |= {"low": {k: sizes["native"][k] for k in ("height", "width")}}
    content["data"] |= {"high": {k: sizes["target"][k] for k in ("height", "width")}}
    return content


def test_every_stage_adapter_and_arm_has_a_row_and_the_totals_add_up(params) -> None:
    plan = make_plan(params, "a100", 0.4)
    assert (plan.device_memory_gb, plan.share_of_peak) == (80, 0.4)
    names = {(r.group, r.name) for r in plan.rows}
    assert {("stage1", "stage1"), ("data", "cache"), ("native", "native")} <= names
    assert {n for g, n in names if g == "stage2"} == set(params["adapters"])
    assert {n for g, n in names if g == "arm"} == set(params["arms"])
    assert plan.hours == pytest.approx(sum(r.count * r.seconds for r in plan.rows) / 3600)
    by_name = {(r.group, r.name): r for r in plan.rows}
    assert by_name["stage2", "full"].count == params["adapters"]["full"]["steps"]
    assert by_name["data", "cache"].count == params["data"]["count"]
    assert by_name["arm", "upsample"].seconds == 0 and by_name["arm", "upsample"].tokens is None
    assert by_name["native", "native"].tokens == 2 * 2 * 3 and by_name["arm", "full"].tokens == 2 * 4 * 6
    assert by_name["arm", "full"].disk_gb * 1e9 == pytest.approx(
        16 * 3 * 5 * params["model"]["target"]["height"] * params["model"]["target"]["width"]
    )


def test_cost_follows_the_settings(params) -> None:
    """Variants as rows of the tables: each costs what its settings say, beside the unchanged row."""
    arm, adapter = params["arms"]["full"], params["adapters"]["full"]
    window = {"attention": {"kind": "window", "half_window": [1, 1]}}
    swim = arm | window | {"method": "freeswim", "adapter": None}
    params["arms"] = {
        "full": arm,
        "guided": arm | {"guidance_scale": 5.0},
        "more": arm | {"steps": 12},
        "window": arm | window,
        "swim": swim,
        "cached": swim | {"refresh_every": 3},
        "transfer": arm | {"detail_transfer": 1.0},
    }
    twice = adapter | {"batch_size": 16}
    params["adapters"] = {"full": adapter, "twice": twice, "split": twice | {"micro_batch": 8}}
    plan = make_plan(params, images=10)
    row = {r.name: r for r in plan.rows if r.group == "arm"}
    step = {r.name: r for r in plan.rows if r.group == "stage2"}
    assert row["guided"].teraflops == pytest.approx(row["more"].teraflops)  # twice the passes, whichever way
    per_pass = (row["more"].teraflops - row["full"].teraflops) / 6
    assert 0 < per_pass < row["full"].teraflops / 6
    assert row["window"].keys_per_query == 2 * 3 * 3 < row["full"].keys_per_query == 2 * 4 * 6
    assert row["swim"].teraflops > row["cached"].teraflops > 0.9 * row["window"].teraflops
    decoding = row["transfer"].teraflops - row["full"].teraflops
    assert 0 < decoding < row["full"].teraflops - 6 * per_pass  # what is no pass is an encode and a decode
    assert step["twice"].teraflops == pytest.approx(2 * step["full"].teraflops)
    assert step["twice"].memory_gb > step["full"].memory_gb == pytest.approx(step["split"].memory_gb)
    assert next(r.count for r in plan.rows if r.group == "data") == 10


def test_our_own_measures_are_counted(params, monkeypatch) -> None:
    """By the pixels of all clips, on two cores at most, and in main memory that does not grow with the clip."""
    target = {"height": 64, "width": 96, "frames": 5, "fps": 8.0}
    params["model"]["target"] = target
    found = {}
    for name, cores, change in (("one", 1, {}), ("many", 64, {}), ("long", 64, {"frames": 9})):
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        params["model"]["target"] = target | change
        params["model"]["native"] |= {"frames": 5} | change
        plan = make_plan(params)
        found[name] = next(r for r in plan.rows if r.group == "measures"), plan.notes[-1]
    one, many, long = (found[name][0] for name in ("one", "many", "long"))
    assert one.count == 16 * len(params["arms"]) and one.memory_gb == one.disk_gb == 0
    assert one.seconds == pytest.approx(MEASURE_SECONDS * 64 * 96 * 5 / 1e6)
    assert many.seconds == pytest.approx(one.seconds / 2)
    assert long.seconds == pytest.approx(many.seconds * 9 / 5)
    assert "1 cores" in found["one"][1] and found["long"][1] == found["many"][1]
    assert measuring_memory(ClipSize(height=2176, width=3840, frames=121)) == 4 * 2176 * 3840 * 3 * 4


def test_it_reads_as_a_table_and_as_json(params) -> None:
    plan = make_plan(params)
    text = format_plan(plan)
    assert "arm keep_stage1" in text and "50%" in text and "fits" in text and "(prompt, seed)" in text
    content = json.loads(json.dumps(plan.to_dict()))
    assert content["totals"]["hours"] == pytest.approx(plan.hours) and len(content["rows"]) == len(plan.rows)
    assert [duration(s) for s in (0, 0.25, 90, 600, 36_000, 864_000)] == [
        "-",
        "250 ms",
        "90 s",
        "10 min",
        "10 h",
        "10.0 d",
    ]


@pytest.mark.parametrize(
    ("options", "message"), [({"device": "abacus"}, "known: a100"), ({"share": 1.5}, "share of peak")]
)
def test_nonsense_is_refused(params, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_plan(params, **options)


def states(findings: list[Finding]) -> dict[str, str]:
    return {f.item: f.state for f in findings}


def test_a_healthy_environment_lacks_nothing_needed(params) -> None:
    findings = examine(params)
    assert "missing" not in states(findings).values(), format_findings(findings)
    assert states(findings)["vbench motion_smoothness"] == "optional"


def test_each_thing_missing_is_named_with_what_mends_it(params, tiny, tmp_path: Path) -> None:
    broken = copy.deepcopy(params)
    cut = tmp_path / "cut"
    shutil.copytree(tiny.path, cut)
    next((cut / "vae").glob("*.safetensors")).unlink()
    index = {"weight_map": {"a": "diffusion_pytorch_model.safetensors", "b": "second-of-2.safetensors"}}
    (cut / "transformer/diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    broken["model"]["path"] = str(cut)
    broken["data"] |= {"source": "folder", "path": str(tmp_path / "photos"), "count": None}
    broken["generation"]["prompts"] = str(tmp_path / "prompts.txt")
    broken["arms"]["full"]["extra_adapters"] = [{"path": str(tmp_path / "style.safetensors")}]
    broken["arms"]["theirs"] = {"method": "external", "label": "x", "path": str(tmp_path / "clips")}
    found = {f.item: f for f in examine(broken)}
    wanted = {"weights", "images", "prompts", "arms.full.extra_adapters", "arms.theirs.path"}
    assert {name for name, f in found.items() if f.state == "missing"} == wanted
    assert "second-of-2.safetensors" in found["weights"].found and "vae/*.safetensors" in found["weights"].found
    assert "photos" in found["images"].fix
    text = format_findings(list(found.values()))
    assert text.count("MISSING") == len(wanted) and "import-adapter" in text


def test_absent_weights_come_with_the_download_command(params, monkeypatch) -> None:
    from huggingface_hub.errors import LocalEntryNotFoundError

    def absent(*args: object, **kwargs: object) -> None:
        raise LocalEntryNotFoundError("not there")

    monkeypatch.setattr("vibe_pipeline.diffusion.models.snapshot_download", absent)
    params["model"]["path"] = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
    found = {f.item: f for f in examine(params)}
    assert (found["weights"].state, found["weights"].fix) == ("missing", "hf download Wan-AI/Wan2.1-T2V-1.3B-Diffusers")
    params["model"]["path"] = "somebody/unknown"
    found = {f.item: f for f in examine(params)}
    assert found["plan"].state == "missing" and "somebody/unknown" in found["plan"].found
