"""The plan of an environment, and the doctor's findings."""

import copy
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from tests.conf_files import folders_below, read_conf
from tests.diffusion.rrdb_files import real_esrgan_file
from tests.planning.kept_plans import findings_of, plan_of
from tests.wan_names import write_wan_file
from vibe_pipeline.diffusion.attention_flops import WHICH
from vibe_pipeline.diffusion.lora import add_adapter, save_adapter
from vibe_pipeline.diffusion.rrdb import RrdbShape
from vibe_pipeline.diffusion.super_resolution import load_network, upscale
from vibe_pipeline.experiment.adapters import AdapterParams
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.data import DataParams
from vibe_pipeline.experiment.evaluation import EvaluationParams
from vibe_pipeline.experiment.model import ClipSize, ModelParams
from vibe_pipeline.experiment.super_resolution import SuperResolutionParams
from vibe_pipeline.experiment.tables import Experiment
from vibe_pipeline.experiment.training import LoraParams, Stage1Params
from vibe_pipeline.images.resize import shrink
from vibe_pipeline.planning.architecture import load_architecture
from vibe_pipeline.planning.costs import Costs
from vibe_pipeline.planning.devices import find_device
from vibe_pipeline.planning.doctor import DRIVER
from vibe_pipeline.planning.figures import Figures
from vibe_pipeline.planning.findings import Finding, format_findings
from vibe_pipeline.planning.measure_costs import MEASURE_SECONDS, measuring_memory
from vibe_pipeline.planning.memory import LiveBytes, network_activations
from vibe_pipeline.planning.network_costs import network_cost
from vibe_pipeline.planning.plan import Assumed, Plan, make_plan
from vibe_pipeline.planning.plan_rows import shapes_of, training_row, training_rows
from vibe_pipeline.planning.rates import COMPILE_SECONDS
from vibe_pipeline.planning.table import duration, format_plan, size

ROOT = Path(__file__).parents[2]
FOLDERS = folders_below(ROOT)


@pytest.fixture
def params(tiny) -> dict[str, Any]:
    """The miniature's parameters with a tiny checkpoint."""
    content = read_conf(ROOT / "conf/base") | {"folders": FOLDERS.model_dump(mode="json")}
    # Native clips of the base, in 32 bit: what plans are about, where the miniature's own take the truth.
    content["generation"] |= {"native_source": "base", "count": 16}
    content["model"] |= {"dtype": "float32", "vae_dtype": "float32"}
    content["model"] |= tiny.model().model_dump(mode="json", include={"path", "native", "target", "text_length"})
    sizes = content["model"]
    content["data"] |= {"low": {k: sizes["native"][k] for k in ("height", "width")}}
    content["data"] |= {"high": {k: sizes["target"][k] for k in ("height", "width")}}
    return content


@pytest.mark.parametrize(("kind", "graphs", "mask"), [("gclf", 19, 4128 * (4128 + 1032)), ("full", 2, 0)])
def test_a_training_waits_for_a_graph_of_each_size_and_keeps_its_mask(kind: str, graphs: int, mask: int) -> None:
    """Full attention has no mask, and is compiled for any size at the second."""
    settings = read_conf(ROOT / "conf/wan22_ti2v_5b")
    data, row = (
        DataParams(**settings["data"]),
        AdapterParams(label="a", start="base", attention={"kind": kind}, compile=True),
    )
    architecture = load_architecture("wan22_ti2v_5b")
    costs = Costs(architecture=architecture, model=ModelParams(**settings["model"]), device=find_device("a100"))
    low, shapes = shapes_of(costs, data)
    assert low < shapes == 19
    assert shapes_of(costs, data.model_copy(update={"count": 7})) == (7, 7)
    assert shapes_of(costs, data.model_copy(update={"buckets": "single"})) == (1, 1)
    one, every = (
        training_row(
            costs=costs,
            group="stage2",
            name="a",
            label="a",
            row=row,
            size=data.high,
            attention=row.attention,
            shapes=count,
        )
        for count in (1, shapes)
    )
    waited = every.once["loading, compiling"] - one.once["loading, compiling"]
    assert waited == pytest.approx((graphs - 1) * COMPILE_SECONDS)
    arms, stage1 = {"u": ArmParams(label="u", method="upsample")}, {"m": Stage1Params(compile=True)}
    tables = Experiment(stage1=stage1, adapters={"a": row}, arms=arms, reference_arm="u")
    rows = {planned.name: planned for planned in training_rows(costs, data, tables)}
    assert (rows["a"].once, rows["a"].memory_gb) == (every.once, every.memory_gb)
    assert rows["m"].once["loading, compiling"] - one.once["loading, compiling"] == pytest.approx(COMPILE_SECONDS)
    assert (every.memory_gb - one.memory_gb) * 1e9 == pytest.approx((shapes - 1) * mask)


def test_every_stage_adapter_and_arm_has_a_row_and_the_totals_add_up(params) -> None:
    plan = plan_of(params, Assumed("a100", 0.4))
    assert (plan.device_memory_gb, plan.share_of_peak) == (80, 0.4)
    names = {(r.group, r.name) for r in plan.rows}
    assert {("stage1", "modality"), ("data", "cache"), ("native", "native")} <= names
    assert {n for g, n in names if g == "stage2"} == set(params["adapters"])
    assert {n for g, n in names if g == "arm"} == set(params["arms"])
    assert plan.hours == pytest.approx(sum(r.count * r.seconds + sum(r.once.values()) for r in plan.rows) / 3600)
    assert plan.hours == pytest.approx(sum(plan.hours_by_part.values()))
    by_name = {(r.group, r.name): r for r in plan.rows}
    assert by_name["stage2", "full"].count == params["adapters"]["full"]["steps"]
    assert by_name["data", "cache"].count == params["data"]["count"]
    high = params["data"]["high"]
    fit = by_name["data", "linear_filter"]
    assert (fit.count, fit.unit) == (params["data"]["count"], "image")
    assert fit.seconds == pytest.approx(2 * 0.09 * high["height"] * high["width"] / 1e6)
    filtered = by_name["arm", "linear"]
    assert filtered.parts["linear filter"] == pytest.approx(0.04 * 5 * high["height"] * high["width"] / 1e6)
    assert (filtered.tokens, filtered.memory_gb, filtered.teraflops) == (None, 0, 0)
    assert set(by_name["arm", "upsample"].parts) == {"writing clips"} and by_name["arm", "upsample"].tokens is None
    assert by_name["native", "native"].tokens == 2 * 2 * 3 and by_name["arm", "full"].tokens == 2 * 4 * 6
    assert by_name["arm", "full"].disk_gb * 1e9 == pytest.approx(
        16 * 3 * 5 * params["model"]["target"]["height"] * params["model"]["target"]["width"]
    )


def test_cost_follows_the_settings(params) -> None:
    """Variants as rows of the tables: each costs what its settings say, beside the unchanged row."""
    arm, adapter = params["arms"]["full"] | {"steps": 6}, params["adapters"]["full"] | {"batch_size": 8}
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
    plan = plan_of(params, Assumed(images=10))
    row = {r.name: r for r in plan.rows if r.group == "arm"}
    step = {r.name: r for r in plan.rows if r.group == "stage2"}
    assert row["guided"].teraflops == pytest.approx(row["more"].teraflops)  # twice the passes, whichever way
    per_pass = (row["more"].teraflops - row["full"].teraflops) / 6
    assert 0 < per_pass < row["full"].teraflops / 6
    assert row["window"].keys_per_query == 2 * 3 * 3 < row["full"].keys_per_query == 2 * 4 * 6
    assert row["swim"].teraflops > row["cached"].teraflops > 0.9 * row["window"].teraflops
    decoding = row["transfer"].teraflops - row["full"].teraflops
    assert 0 < decoding == pytest.approx(row["full"].teraflops - 6 * per_pass)  # what is not a pass is a decode
    latents = next(r for r in plan.rows if (r.group, r.name) == ("native", "latents"))
    assert latents.count == 16 and latents.teraflops > 0  # encoded once, for all arms
    assert step["twice"].teraflops == pytest.approx(2 * step["full"].teraflops)
    assert step["twice"].memory_gb > step["full"].memory_gb == pytest.approx(step["split"].memory_gb)
    assert next(r.count for r in plan.rows if r.group == "data") == 10


def test_a_run_that_grows_is_planned_at_its_last_look_and_says_what_the_first_takes(params, tmp_path: Path) -> None:
    params |= {"stage1": {}, "adapters": {}, "arms": {"upsample": params["arms"]["upsample"]}}
    params["evaluation"]["reference_arm"], figures = "upsample", Figures(tmp_path)
    params["generation"]["native_source"] = "truth"
    params["generation"]["count"] = 9  # which look a run makes is not of the plan

    def planned(**changes: object) -> Plan:
        return make_plan(params | {"generation": params["generation"] | changes}, figures=figures)

    grown, first, last = planned(sequential={"blocks": [8, 16, 24]}), planned(count=8), planned(count=24)
    assert grown.rows == last.rows and first.hours < last.hours
    said = f"{first.hours:.3g} h to the end of the first, {last.hours:.3g} h to that of the last"
    assert f"looks at 8, 16, 24 prompts, until the claims are told: {said}" in grown.notes[-1]


def test_groups_by_the_layer_and_a_transformer_of_an_arms_own_are_counted(params, tiny, tmp_path) -> None:
    """Layers of two sorts: frames one by one, once; and six boxes of eight tokens, two sorts of them."""
    file = write_wan_file(tiny.transformer(), tmp_path / "t3.safetensors")
    arm = params["arms"]["full"] | {"adapter": None}
    t3 = arm | {"attention": {"kind": "t3", "groups": [[2, 1, 1], [1, 2, 3]]}, "transformer": {"path": str(file)}}
    params["arms"], params["evaluation"]["reference_arm"] = {"full": arm, "t3": t3, "again": t3}, "full"
    plan = plan_of(params)
    row = {r.name: r for r in plan.rows if r.group == "arm"}
    assert row["t3"].keys_per_query == (24 + 2 * 8) / 2 < row["full"].keys_per_query == 48
    assert row["t3"].teraflops < row["full"].teraflops and row["t3"].memory_gb >= row["full"].memory_gb
    alone = plan_of(params | {"arms": {"full": arm}})
    assert (plan.weights_gb - alone.weights_gb) * 1e9 == pytest.approx(file.stat().st_size)  # read twice, kept once
    assert [n for n in plan.notes if n.startswith("transformers of arms' own: 1,")] and len(alone.notes) + 1 == len(
        plan.notes
    )
    params["arms"]["t3"] = arm | {"attention": {"kind": "t3"}}
    with pytest.raises(ValueError, match=r"arms\.t3: T3-Video's groups are published for the token grids .*81 frames"):
        plan_of(params)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_stage_1_that_cannot_be_merged_is_counted(params, dtype: str) -> None:
    """16-bit weights do not take it up: it stands beside them in stage 2, and in arms that keep it."""
    params["model"] |= {"dtype": dtype}
    adapter, arm = params["adapters"]["full"], params["arms"]["full"]
    params["adapters"] = {"full": adapter, "naive": adapter | {"start": "base"}}
    params["arms"] = {"full": arm, "kept": arm | {"keep_stage1": True}}
    rows = {(r.group, r.name): r for r in plan_of(params).rows}
    for dearer, plain in ((("stage2", "full"), ("stage2", "naive")), (("arm", "kept"), ("arm", "full"))):
        more = (rows[dearer].teraflops > rows[plain].teraflops, rows[dearer].memory_gb > rows[plain].memory_gb)
        assert more == ((dtype == "bfloat16"), (dtype == "bfloat16"))


def test_every_adapter_beside_the_weights_and_every_clip_of_validation_is_counted(params, tiny, tmp_path) -> None:
    """An adapter's file costs what an adapter of its shape does; cached FreeSwim keeps its outputs for each clip."""
    transformer = tiny.transformer()
    add_adapter(transformer, "style", 4, 4, LoraParams().targets, 0)
    style = {"path": str(save_adapter(transformer, "style", tmp_path))}
    adapter, arm = params["adapters"]["full"], params["arms"]["full"] | {"adapter": None}
    cached = {"method": "freeswim", "attention": {"kind": "window", "half_window": [1, 1]}, "refresh_every": 2}
    validated = adapter | {"steps": 50, "validate_every": 20, "validation_clips": 3}
    params["adapters"] = {"own": validated | {"lora": {"rank": 4}}}
    params["arms"] = {
        "plain": arm,
        "own": arm | {"adapter": "own"},
        "style": arm | {"extra_adapters": [style]},
        "both": arm | {"adapter": "own", "extra_adapters": [style]},
        "cached": arm | cached,
    }
    params["evaluation"]["reference_arm"] = "plain"
    rows = {r.name: r for r in plan_of(params).rows if r.group == "arm"}
    for figure in ("teraflops", "memory_gb"):
        plain, own, style_, both = (getattr(rows[n], figure) for n in ("plain", "own", "style", "both"))
        assert own == pytest.approx(style_) and own > plain
        assert both - plain == pytest.approx(2 * (own - plain), rel=1e-3)
    (validation,) = (r for r in plan_of(params).rows if r.group == "validation")
    assert (validation.count, validation.unit) == (3 * 3, "clip")  # at 20, 40 and 50, the last
    assert validation.teraflops == rows["own"].teraflops
    always = params | {"arms": params["arms"] | {"cached": params["arms"]["cached"] | {"refresh_every": None}}}
    kept = {}
    for batch in (1, 2):
        both_ways = [p | {"generation": p["generation"] | {"batch_size": batch}} for p in (params, always)]
        one, other = (next(r.memory_gb for r in plan_of(p).rows if r.name == "cached") for p in both_ways)
        kept[batch] = one - other
    tokens, width, layers = 2 * 4 * 6, 2 * 16, 2
    assert kept[1] * 1e9 == pytest.approx(layers * tokens * width * 4) and kept[2] == pytest.approx(2 * kept[1])


def test_a_first_frame_costs_a_timestep_a_token_in_every_pass_and_in_no_training(params, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "frame.png")
    plans = {}
    for held, frame in ((False, {}), (True, {"first_frame": "frame.png"})):
        file = tmp_path / f"{held}.jsonl"
        file.write_text(json.dumps({"prompt": "a cat"} | frame) + "\n")
        generation = params["generation"] | {"prompts": str(file), "count": None, "skip": 0}
        plans[held] = plan_of(params | {"generation": generation})
    assert "each with a first frame" in format_plan(plans[True]) and "first frame" not in format_plan(plans[False])
    without, beside = ({(r.group, r.name): r for r in plans[held].rows} for held in (False, True))
    for key, row in without.items():
        dearer = key == ("native", "native") or (row.group == "arm" and row.tokens)
        assert (beside[key].teraflops > row.teraflops) == bool(dearer), key
        assert beside[key].memory_gb >= row.memory_gb


def test_our_own_measures_are_counted(params, monkeypatch) -> None:
    """By the pixels of all clips, on two cores at most, and in main memory that does not grow with the clip."""
    target = {"height": 64, "width": 128, "frames": 5, "fps": 8.0}
    params["model"]["target"] = target
    found = {}
    for name, cores, change in (("one", 1, {}), ("many", 64, {}), ("long", 64, {"frames": 9})):
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        params["model"]["target"] = target | change
        params["model"]["native"] |= {"frames": 5} | change
        plan = plan_of(params)
        found[name] = next(r for r in plan.rows if r.group == "measures"), plan.notes[-1]
    one, many, long = (found[name][0] for name in ("one", "many", "long"))
    assert one.count == 16 * len(params["arms"]) and one.memory_gb == one.disk_gb == 0
    assert one.seconds == pytest.approx(MEASURE_SECONDS * 64 * 128 * 5 / 1e6)
    assert many.seconds == pytest.approx(one.seconds / 2)
    assert long.seconds == pytest.approx(many.seconds * 9 / 5)
    assert "1 cores" in found["one"][1] and found["long"][1] == found["many"][1]
    assert measuring_memory(ClipSize(height=2176, width=3840, frames=121)) == 4 * 2176 * 3840 * 3 * 4


def test_it_reads_as_a_table_and_as_json(params) -> None:
    plan = plan_of(params)
    text = format_plan(plan)
    assert (
        "arm keep_stage1" in text
        and "at its measured rate" in text
        and "of which" in text
        and "fits" in text
        and "(prompt, seed)" in text
    )
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
    assert re.search(r"parameters: transformer 0\.\d*[1-9]\d* [BM]|parameters: transformer [1-9]", text)
    sizes = [size(0), size(0.004), size(0.31, 0), size(83.66), size(1874.4, 0)]
    assert sizes == ["-", "4 MB", "0.3 GB", "83.7 GB", "1874 GB"]


@pytest.mark.parametrize(
    ("options", "message"), [({"device": "abacus"}, "known: this, a100"), ({"share": 1.5}, "share of peak")]
)
def test_nonsense_is_refused(params, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_of(params, Assumed(**options))


def states(findings: list[Finding]) -> dict[str, str]:
    return {f.item: f.state for f in findings}


def test_each_objective_takes_a_forward(params) -> None:
    rows = {row.name: row for row in plan_of(params).rows if row.group == "stage2"}
    params["adapters"]["full"]["objective"] = {"hfato": 1.0, "velocity": 1.0}
    params["adapters"]["no_hfato"]["objective"] = {"star": 1.0}
    mixed = {row.name: row for row in plan_of(params).rows if row.group == "stage2"}
    assert mixed["full"].teraflops == pytest.approx(2 * rows["full"].teraflops)
    assert mixed["full"].seconds == pytest.approx(2 * rows["full"].seconds)
    assert mixed["no_hfato"].teraflops == rows["no_hfato"].teraflops


def test_midpoints_and_levels_of_a_bridge_are_guided_where_they_lie(params) -> None:
    """Levels 0.8, 0.6, 0.4 and 0.2, and midpoints a tenth below each: in the interval lie 3, and 2 of the midpoints."""
    arm = params["arms"]["full"] | {"adapter": None, "bridge": {"sigma_start": 0.8}, "steps": 4, "flow_shift": 1.0}
    arm = {k: v for k, v in arm.items() if k not in ("strength", "strength_mode")}
    euler = arm | {"guidance_scale": 5.0, "guidance_interval": [0.15, 0.65]}
    params["arms"] = {
        "full": params["arms"]["full"],
        **{f"free_{n}": arm | {"steps": n, "guidance_scale": 1.0} for n in (4, 8)},
        "euler": euler,
        "midpoint": euler | {"scheduler": "midpoint"},
    }
    row = {r.name: r.teraflops for r in plan_of(params).rows if r.group == "arm"}
    one = (row["free_8"] - row["free_4"]) / 4
    assert (row["euler"] - row["free_4"]) / one == pytest.approx(3)
    assert (row["midpoint"] - row["free_8"]) / one == pytest.approx(5)


def test_crops_make_4k_images_trainable_on_24_gb() -> None:
    """The 5B: 880 tokens of a native crop beside 2,040 of the whole, in place of 8,160; the rest as the row says."""
    content = read_conf(ROOT / "conf/wan22_ti2v_5b") | {"folders": FOLDERS.model_dump(mode="json")}
    content["data"] |= {"high": {"height": 2176, "width": 3840}, "buckets": "single"}
    whole = content["adapters"]["full"] | {"attention": {"kind": "full"}, "gradient_checkpointing": True, "seed": [0]}
    crop = {"height": 704, "width": 1280}
    content["adapters"] |= {"full": whole, "no_hfato": whole | {"crop": crop}}
    content["adapters"]["window_only"] = whole | {"crop": crop | {"pool": None}, "seed": 0}
    plan = plan_of(content, Assumed("4090", images=2))
    rows = {row.name.removesuffix("_seed_0"): row for row in plan.rows if row.group == "stage2"}
    assert [rows[n].tokens for n in ("full", "no_hfato", "window_only")] == [8160, 880 + 2040, 880]
    assert rows["no_hfato"].memory_gb < rows["full"].memory_gb
    assert plan.device_memory_gb == 24 and rows["no_hfato"].memory_gb < 24
    assert rows["no_hfato"].teraflops < 0.4 * rows["full"].teraflops
    assert rows["window_only"].seconds < rows["no_hfato"].seconds < 0.4 * rows["full"].seconds


def test_a_packed_step_is_as_many_images_as_fit_into_its_sequences(params) -> None:
    """A token's own modulation is what packing adds, in operations and memory."""
    plain = next(row for row in plan_of(params).rows if row.group == "stage2")
    name, own = plain.name, params["adapters"][plain.name]
    own |= {"batch_size": 1, "micro_batch": None}
    one = next(row for row in plan_of(params).rows if row.name == name and row.group == "stage2")
    own["packing"] = {"tokens": 3 * one.tokens + 1}
    packed = next(row for row in plan_of(params).rows if row.name == name and row.group == "stage2")
    assert packed.tokens == 3 * one.tokens and packed.keys_per_query == one.keys_per_query
    assert 3 * one.teraflops < packed.teraflops < 4.5 * one.teraflops
    assert packed.memory_gb > one.memory_gb


def test_drawn_degradations_are_encoded_and_kept(params) -> None:
    plain = next(row for row in plan_of(params).rows if row.group == "data")
    params["data"]["pixel_draws"] = {"most": 4.0, "least": 2.0, "count": 3}
    drawn = next(row for row in plan_of(params).rows if row.group == "data")
    params["data"]["pixel_draws"]["count"] = 6
    twice = next(row for row in plan_of(params).rows if row.group == "data")
    assert twice.teraflops > drawn.teraflops > plain.teraflops
    assert twice.teraflops - drawn.teraflops == pytest.approx(drawn.teraflops - plain.teraflops)
    assert twice.disk_gb > drawn.disk_gb > plain.disk_gb
    assert twice.disk_gb - drawn.disk_gb == pytest.approx(drawn.disk_gb - plain.disk_gb)


def test_without_a_gpu_a_build_without_cuda_and_an_old_driver_are_named(params, monkeypatch) -> None:
    """The driver is that of the pinned torch: another pin may want another."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    params["model"]["device"] = "auto"
    device = {f.item: f for f in findings_of(params)}["device"]
    assert f"torch {torch.__version__} sees no GPU" in device.found
    assert "pip install --force-reinstall" in device.fix and "a driver of 580 or later" in device.fix
    assert "nvidia-smi" in device.fix and (ROOT / "requirements/torch.txt").read_text() == "torch==2.13.0\n"
    assert f"NVIDIA driver of {DRIVER} or later" in (ROOT / "docs/paper.md").read_text()


def test_a_healthy_environment_lacks_nothing_needed(params) -> None:
    findings = findings_of(params)
    assert "missing" not in states(findings).values(), format_findings(findings)
    assert states(findings)["vbench motion_smoothness"] == "optional"


def claim(name: str, metric: str) -> dict[str, object]:
    primary = {"metric": metric, "better": "higher", "margin": 0.01}
    return {"name": name, "statement": name, "kind": "k", "arm": "full", "other": "upsample", "primary": primary}


def test_doctor_says_which_claims_cannot_be_judged_and_why(params) -> None:
    six = list(EvaluationParams.model_fields["overall_dimensions"].default)
    params["evaluation"] |= {"vbench_dimensions": ["temporal_flickering"], "extra_measures": ["hd_mse"]}
    params["evaluation"].pop("overall_dimensions", None)
    params["claims"] = [claim("restores", "psnr"), claim("flickers", "temporal_flickering"), claim("truer", "hd_mse")]
    report = {f.item: f for f in findings_of(params)}["report"]
    assert (report.state, report.found) == ("ok", "puts 3 claims to the test, beside 0 published tables")
    params["claims"] = [claim(name, "overall6") for name in "abcde"] + [claim("sharper", "patch_musiq")]
    params["claims"] += [claim("restores", "psnr")]
    report = {f.item: f for f in findings_of(params)}["report"]
    assert (
        report.state == "optional"
        and report.fix
        and report.found
        == (
            "puts 7 claims to the test, beside 0 published tables; "
            f"cannot judge a, b, c and 2 more, as overall6 lacks {', '.join(six)}; "
            "cannot judge sharper, as patch_musiq is not measured"
        )
    )
    params["claims"] = params["claims"][-1:]
    report = {f.item: f for f in findings_of(params)}["report"]
    assert report.found == "puts 1 claim to the test, beside 0 published tables"


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
    (tmp_path / "vbench").write_text("")
    broken["folders"]["vbench_weights"] = str(tmp_path / "vbench")
    found = {f.item: f for f in findings_of(broken)}
    wanted = {"weights", "images", "prompts", "arms.full.extra_adapters", "arms.theirs.path"}
    wanted |= {"folders.vbench_weights"}
    assert {name for name, f in found.items() if f.state == "missing"} == wanted
    assert (
        "second-of-2.safetensors" in found["weights"].found
        and "vae/diffusion_pytorch_model.safetensors is not" in found["weights"].found
    )
    assert "photos" in found["images"].fix
    assert found["prompts"].fix.startswith("mend what the line above names, or set generation.prompts to ")
    text = format_findings(list(found.values()))
    assert text.count("MISSING") == len(wanted) and "import-adapter" in text


def test_a_tile_that_does_not_fit_is_named_with_the_nearest(params, tiny) -> None:
    params["model"] |= {"tile": 300}
    findings = findings_of(params)
    assert states(findings)["plan"] == "missing"
    assert "model.tile 300 must be a multiple of" in format_findings(findings)


def test_every_size_that_the_run_would_refuse_is_named(params, tiny) -> None:
    params["model"]["target"] = params["model"]["target"] | {"height": params["model"]["target"]["height"] + 1}
    params["evaluation"]["fine_band"] = [3000.0, 4500.0]
    wrong = {f.item: f.found for f in findings_of(params) if f.state == "missing"}
    assert "model.target" in wrong["sizes"] and "3000" in wrong["evaluation.fine_band"]


def test_absent_weights_come_with_the_download_command(params, monkeypatch) -> None:
    from huggingface_hub.errors import LocalEntryNotFoundError

    def absent(*args: object, **kwargs: object) -> None:
        raise LocalEntryNotFoundError("not there")

    monkeypatch.setattr("huggingface_hub.snapshot_download", absent)
    params["model"]["path"] = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
    found = {f.item: f for f in findings_of(params)}
    assert (found["weights"].state, found["weights"].fix) == ("missing", "hf download Wan-AI/Wan2.1-T2V-1.3B-Diffusers")
    params["model"]["path"] = "somebody/unknown"
    found = {f.item: f for f in findings_of(params)}
    assert found["plan"].state == "missing" and "somebody/unknown" in found["plan"].found


def test_names_that_no_file_can_have_are_findings_not_crashes(params) -> None:
    long = "n" * 300
    params["data"] |= {"source": "folder", "path": long, "count": None}
    params["generation"]["prompts"] = f"{long}.txt"
    params["folders"]["vbench_weights"] = params["folders"]["vbench_env"] = long
    found = states(findings_of(params))
    for item in ("images", "prompts", "folders.vbench_weights", "folders.vbench_env"):
        assert found[item] == "missing", item


X4 = "RealESRGAN_x4plus.pth"


def test_a_network_on_every_frame_is_counted_before_it_is_fetched(params, tmp_path: Path) -> None:
    """By the list of peers without the file, by the file where it is; tiles bound memory and cost overlap."""
    small = real_esrgan_file(tmp_path, features=16, blocks=2).rename(tmp_path / "small.pth")
    params["model"] |= {"native": {"height": 96, "width": 160, "frames": 5}}
    rows = {
        "x4": {"weights": X4},
        "half": {"weights": X4, "dtype": "bfloat16"},
        "tiled": {"weights": X4, "tile": 64},
        "small": {"weights": str(small)},
        "unknown": {"weights": "mine.pth"},
    }
    params["arms"] = {n: {"label": n, "method": "sr", "sr": sr} for n, sr in rows.items()}
    params["arms"] |= {"full": {"label": "full", "method": "upsample"}}
    plan = plan_of(params)
    row = {r.name: r for r in plan.rows if r.group == "arm"}
    assert row["x4"].teraflops == pytest.approx(RrdbShape().flops(96, 160) * 5 / 1e12)
    assert row["small"].teraflops == pytest.approx(RrdbShape(16, 2).flops(96, 160) * 5 / 1e12)
    tiles = 2 * 4  # of 64 pixels that share at least 32
    assert row["tiled"].teraflops == pytest.approx(RrdbShape().flops(64, 64) * tiles * 5 / 1e12)
    assert row["tiled"].memory_gb < row["x4"].memory_gb > row["half"].memory_gb and row["x4"].seconds > 0
    assert row["unknown"].teraflops == 0
    assert any(n.startswith("arms.unknown: its network is not counted, as mine.pth is not here") for n in plan.notes)
    assert not any(n.startswith(("arms.x4", "arms.small")) for n in plan.notes)


def test_another_architecture_is_counted_by_torch(wan21, tmp_path: Path) -> None:
    """Real-ESRGAN's small form for video: SRVGGNetCompact, convolutions at native size and a pixel shuffle."""
    from spandrel.architectures.Compact import Compact

    path = tmp_path / "realesr-animevideov3.pth"
    torch.save({"params": Compact(num_feat=16, num_conv=3, upscale=4).state_dict()}, path)
    model = wan21.model(native={"height": 64, "width": 96, "frames": 5}, dtype="bfloat16")
    costs = SimpleNamespace(model=model, figures=Figures(tmp_path / "kept"), device=find_device("h100"), share=0.5)
    found = network_cost(costs, SuperResolutionParams(weights=path))
    convolutions = 9 * (3 * 16 + 3 * 16 * 16 + 16 * 48)
    assert found.work.teraflops == pytest.approx(2 * convolutions * 64 * 96 * 5 / 1e12)
    assert found.work.seconds == pytest.approx(found.work.teraflops / (989.4 * 0.5), rel=1e-3)
    costs.share = 0.25
    assert network_cost(costs, SuperResolutionParams(weights=path)).work.seconds == pytest.approx(
        2 * found.work.seconds
    )
    torch.save({"params": Compact(num_feat=8, num_conv=3, upscale=4).state_dict()}, path)
    other = network_cost(costs, SuperResolutionParams(weights=path))
    assert other.work.teraflops < found.work.teraflops and other.memory < found.memory  # kept by content, not by name


def test_memory_of_a_network_is_that_of_a_real_frame(tmp_path: Path) -> None:
    """Fake tensors against real ones, whole and in tiles."""
    native, target = ClipSize(height=48, width=80), ClipSize(height=150, width=240)
    for tile in (None, 64):
        chosen = SuperResolutionParams(weights=real_esrgan_file(tmp_path), tile=tile, overlap=32)
        network = load_network(chosen.weights)
        frame = torch.rand(1, 3, 48, 80)
        with LiveBytes([*network.model.parameters(), frame]) as live:
            shrink(upscale(network, 4, frame, tile, 32).float()[:, :, None], 150, 240)
        fake = network_activations(
            load_network(chosen.weights).model.to("meta"), 4, native, target, chosen, torch.float32
        )
        assert fake == pytest.approx(live.peak, rel=0.02)


def test_an_optional_arm_is_planned_and_found_optional_by_the_doctor(params) -> None:
    optional = {"label": "sr", "method": "sr", "optional": True, "sr": {"weights": X4}}
    params["arms"]["sr"] = optional
    plan = plan_of(params)
    assert next(r for r in plan.rows if r.name == "sr").teraflops > 0
    said = "not run, because sr.weights: RealESRGAN_x4plus.pth does not exist"
    assert f"arms.sr: counted, but {said}; kedro vibe fetch-weights RealESRGAN_x4plus.pth" in plan.notes
    found = {f.item: f for f in findings_of(params)}
    assert found["arms.sr"] == Finding("arms.sr", "optional", said, "kedro vibe fetch-weights RealESRGAN_x4plus.pth")
    params["arms"]["sr"] = optional | {"optional": False}
    found = {f.item: f for f in findings_of(params)}
    assert "arms.sr" not in found and found["arms.sr.sr.weights"].state == "missing"
    assert found["arms.sr.sr.weights"].fix == "kedro vibe fetch-weights RealESRGAN_x4plus.pth"


def test_a_network_that_is_there_is_described_by_the_doctor(params, tmp_path: Path) -> None:
    params["arms"]["sr"] = {"label": "sr", "method": "sr", "sr": {"weights": str(real_esrgan_file(tmp_path))}}
    found = {f.item: f for f in findings_of(params)}["arms.sr.sr.weights"]
    native, target = params["model"]["native"], params["model"]["target"]
    sizes = f"{native['height'] * 4}x{native['width'] * 4}, resized to {target['height']}x{target['width']}"
    assert found.state == "ok" and found.found.endswith(f"RealESRGAN_x4plus.pth: ESRGAN, 8nf, 1nb; {sizes}")


def test_what_a_cache_of_attention_keeps_is_in_the_memory(params) -> None:
    """An output of every layer's two attentions, for both guidance passes and every clip of a batch."""
    arm = params["arms"]["full"] | {"adapter": None, "guidance_scale": 3.0}
    cached = arm | {"step_cache": {"kind": "pyramid", "cross_every": 2, "between": (0.0, 1.0)}}
    params["arms"] = {"full": arm, "cached": cached}
    params["adapters"] = {}
    rows = {row.name: row for row in plan_of(params).rows if row.group == "arm"}
    config = load_architecture(params["model"]["path"]).transformer
    hidden = config["num_attention_heads"] * config["attention_head_dim"] * rows["full"].tokens
    kept = 2 * config["num_layers"] * 2 * hidden * 4 * params["generation"].get("batch_size", 1)
    assert (rows["cached"].memory_gb - rows["full"].memory_gb) * 1e9 == pytest.approx(kept, rel=1e-6)
    # Every second forward takes over both attentions, which counts as work and as time.
    model = ModelParams(**params["model"])
    costs = Costs(architecture=load_architecture(model.path), model=model, device=find_device("h100"))
    row = ArmParams(**cached)
    one, other = (costs.attention(model.target, row.attention, (), which).teraflops for which in WHICH)
    saved = 2 * (row.steps // 2) * (one + other)
    assert rows["full"].teraflops - rows["cached"].teraflops == pytest.approx(saved, rel=1e-6)
    assert rows["cached"].parts["transformer"] < rows["full"].parts["transformer"]
