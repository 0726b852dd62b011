"""`kedro vibe`: commands parse, say what they did, and end with the right exit code."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from kedro.framework.project import configure_project
from safetensors.torch import load_file, save_file

from tests.conf_files import read_conf, write_conf
from vibe_pipeline.cli import cli
from vibe_pipeline.diffusion import lora
from vibe_pipeline.experiment.training import LoraParams
from vibe_pipeline.generation import peer_weights
from vibe_pipeline.io.yaml_files import read_mapping

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("command", [["run"], ["vibe", "plan"]])
@pytest.mark.parametrize("content", ["generation: {count: 4}", "run: {params: {"])
def test_a_file_of_parameters_that_is_none_is_one_line(tmp_path: Path, command: list[str], content: str) -> None:
    (tmp_path / "own.yml").write_text(content)
    done = CliRunner().invoke(cli, [*command, f"--config={tmp_path / 'own.yml'}"])
    assert done.exit_code == 2 and "has no readable section `run:`" in done.output, done.output


@pytest.fixture
def project(tmp_path: Path, wan21, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with the tiny checkpoint as its model, and one trained adapter."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    base = tmp_path / "conf/base"
    params = read_conf(base)
    params["model"]["path"] = str(wan21.path)
    for row in ("gclf", "sr"):  # pooled tokens that do not fit this model's at that target, weights that stayed behind
        del params["arms"][row]
    write_conf(base, params)
    transformer = wan21.transformer()
    lora.add_adapter(transformer, "full", 4, 6.0, LoraParams().targets, 0)
    saved = lora.save_adapter(transformer, "full", tmp_path / "data/06_models/adapters/full-1")
    (tmp_path / "data/06_models/adapters/full.json").write_text(
        json.dumps({"name": "full", "key": "k", "path": str(saved)})
    )
    monkeypatch.chdir(tmp_path)
    configure_project("vibe_pipeline")
    return tmp_path


def call(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["vibe", *arguments])


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("gen", "No such command 'gen'. Did you mean 'generate'?"),
        ("imp", "No such command 'imp'. Did you mean 'import-adapter'?"),
        ("re", "No such command 're'. Did you mean 'refine' or 'rehearse' or 'report'?"),
        ("refien", "Did you mean 'refine'?"),
        ("xyz", "No such command 'xyz'."),
    ],
)
def test_a_command_that_was_not_typed_to_its_end_is_suggested(typed: str, said: str) -> None:
    done = CliRunner().invoke(cli, ["vibe", typed])
    assert done.exit_code == 2 and done.output.strip().endswith(said), done.output


def test_an_adapter_goes_out_by_name_and_comes_back(project: Path, wan21) -> None:
    out = call("export-adapter", "full", "--to", "comfyui", "--output", "x.safetensors")
    assert out.exit_code == 0, out.output
    assert "diffusion_model.blocks.0.self_attn.q.lora_down.weight" in load_file(project / "x.safetensors")
    back = call("import-adapter", "x.safetensors", "--output", "back", "--base", str(wan21.path))
    assert back.exit_code == 0, back.output
    assert "20 layers" in back.output and "alpha 6," in back.output and "it fits" in back.output
    ours = load_file(project / "data/06_models/adapters/full-1/pytorch_lora_weights.safetensors")
    again = load_file(project / "back/pytorch_lora_weights.safetensors")
    assert ours.keys() == again.keys() and all(torch.equal(ours[k], again[k]) for k in ours)


def test_an_adapter_of_the_low_noise_expert_says_where_it_belongs(project: Path) -> None:
    manifest = project / "data/06_models/adapters/full.json"
    asked = "export-adapter", "full", "--to", "diffusers", "--output", "x.safetensors"
    assert "transformer_2" not in call(*asked).output
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"part": "transformer_2"}))
    assert "load_lora_weights(…, load_into_transformer_2=True)" in call(*asked).output


def test_a_missing_alpha_is_asked_for_or_its_convention_is_stated(project: Path) -> None:
    call("export-adapter", "full", "--to", "diffsynth", "--fold", "--output", "folded.safetensors")
    back = call("import-adapter", "folded.safetensors", "--output", "back")
    assert back.exit_code == 0 and "alpha = rank" in back.output and "not checked against a base" in back.output


def test_adapters_that_do_not_fit_end_with_a_message_and_no_traceback(project: Path) -> None:
    unknown = call("export-adapter", "nothing", "--to", "comfyui", "--output", "x.safetensors")
    assert unknown.exit_code == 1 and "trained: full" in unknown.output
    call("export-adapter", "full", "--to", "comfyui", "--output", "x.safetensors")
    other = call("import-adapter", "x.safetensors", "--output", "back", "--base", "wan21_t2v_1_3b")
    assert other.exit_code == 1 and "another base" in other.output and "blocks." in other.output
    unknown_base = call("import-adapter", "x.safetensors", "--output", "back", "--base", "wan22_5b")
    assert unknown_base.exit_code == 1 and unknown_base.output == (
        "Error: --base 'wan22_5b' is not on disk; did you mean 'wan22_ti2v_5b'? known without weights: "
        "wan21_t2v_1_3b, wan22_t2v_a14b, wan22_ti2v_5b\n"
    )
    torch.save({"layer.lora_A.weight": torch.ones(1), "code": slice(1)}, "x.bin")
    pickle = call("import-adapter", "x.bin", "--output", "back")
    assert pickle.exit_code == 1 and "is a pickle that holds more than tensors" in pickle.output
    absent = call("import-adapter", "y.bin", "--output", "back")
    assert absent.exit_code == 1 and absent.output == "Error: y.bin does not exist, or is not a file\n"
    assert not (project / "back").exists()


def test_plan_prints_a_table_or_json(project: Path) -> None:
    table = call("plan")
    assert table.exit_code == 0 and "arm full_pixel" in table.output, table.output
    assert "device this machine (" in table.output and "at the speed measured on it" in table.output  # its model.device
    assert "device h100, 80 GB, each kernel at its measured rate" in call("plan", "--params=model.device=cuda").output
    content = json.loads(call("plan", "--json", "--device", "4090").output)
    assert content["device"] == "4090" and content["totals"]["peak_memory_gb"] > 0
    wrong = call("plan", "--device", "abacus")
    known = "this, a100, h100, h200, l40s, 4090, 5090"
    assert wrong.exit_code == 1 and wrong.output.endswith(f"'abacus' is not known; known: {known}\n")
    assert "conf/nowhere does not exist; environments: base" in call("plan", "--env", "nowhere").output


def test_doctor_fails_if_something_needed_is_missing(project: Path) -> None:
    well = call("doctor")
    assert well.exit_code == 0, well.output
    path = project / "conf/base/parameters.yml"
    path.write_text(path.read_text().replace("prompts: miniature", "prompts: nowhere.txt"))
    ill = call("doctor")
    assert ill.exit_code == 1 and "MISSING   prompts" in ill.output and "fix:" in ill.output


def test_plan_and_doctor_say_on_how_many_clips_a_dimension_is_defined(project: Path) -> None:
    pytest.importorskip("vbench")
    base = project / "conf/base"
    params = read_conf(base)
    params["generation"] |= {"prompts": "vbench_subset", "count": 16}
    params["evaluation"]["vbench_dimensions"] = ["temporal_flickering", "scene"]
    write_conf(base, params)
    planned = call("plan").output
    assert "clips an arm that VBench's dimensions are defined on: temporal_flickering 2, scene 2" in planned
    assert "vbench temporal_flickering: can be scored, on 2 clips an arm" in call("doctor").output
    params["generation"] |= {"prompts": "vbench_custom", "count": 16}
    write_conf(base, params)
    ill = call("doctor")
    assert ill.exit_code == 1 and "MISSING   vbench scene: defined on no clip of vbench_custom" in ill.output
    params["evaluation"]["vbench_dimensions"] = ["temporal_flickering"]
    write_conf(base, params)
    well = call("doctor")
    assert "kedro vibe rehearse" in well.output, well.output


def test_doctor_reads_the_claims_that_lie_beside_the_parameters(project: Path) -> None:
    count = len(read_mapping(project / "conf/base/claims.yml")["claims"])
    assert count > 1
    assert f"report: puts {count} claims to the test, beside 2 published tables" in call("doctor").output
    (project / "conf/base/claims.yml").write_text("claims: [{name: x}]")
    ill = call("doctor")
    assert ill.exit_code == 1 and "conf/base/claims.yml: claims.0" in ill.output


def test_fetching_what_arms_name_without_a_connection_is_one_line(project: Path, monkeypatch) -> None:
    base = project / "conf/base"
    params = read_conf(base)
    none = call("fetch-weights", "--arms")
    assert none.exit_code == 0 and "no arm of this environment names such a file" in none.output
    assert "data/06_models/peers/real_esrgan_x4plus/RealESRGAN_x4plus.pth (BSD-3-Clause), from https://" in none.output
    weights = {"weights": "data/06_models/peers/real_esrgan_x4plus/RealESRGAN_x4plus.pth"}
    params["arms"]["sr"] = {"label": "sr", "method": "sr", "sr": weights, "optional": True}
    write_conf(base, params)
    gone = tuple(replace(e, source=f"http://127.0.0.1:9/{e.file}") for e in peer_weights.PEER_FILES)
    monkeypatch.setattr(peer_weights, "PEER_FILES", gone)
    offline = call("fetch-weights", "--arms")
    assert offline.exit_code == 1 and "could not be fetched (no connection: " in offline.output
    assert len(offline.output.splitlines()) == 1
    both = call("fetch-weights", "--arms", "--dimensions", "imaging_quality")
    assert both.exit_code == 2 and "give one of" in both.output
    well = call("doctor")
    assert well.exit_code == 0, well.output
    assert "optional  arms.sr: not run, because sr.weights: data/06_models/peers/real_esrgan" in well.output
    fix = f"kedro vibe fetch-weights {weights['weights']}"
    assert f"fix: {fix}" in well.output
    named = call(*fix.split()[2:])
    assert named.exit_code == 1 and named.output == offline.output
    strange = call("fetch-weights", "mine.pth")
    assert strange.exit_code == 1 and "mine.pth is not there, and no file of the list" in strange.output


def test_differences_are_kept_on_request(project: Path) -> None:
    call("export-adapter", "full", "--to", "comfyui", "--output", "x.safetensors")
    save_file(load_file("x.safetensors") | {"diffusion_model.head.diff_m": torch.ones(1, 2, 32)}, "few.safetensors")
    refused = call("import-adapter", "few.safetensors", "--output", "back")
    assert refused.exit_code == 1 and "With --differences they are kept" in refused.output
    kept = call("import-adapter", "few.safetensors", "--output", "back", "--differences")
    assert kept.exit_code == 0, kept.output
    assert "back/differences.safetensors: 1 parameters; rows fuse them with `differences: true`" in kept.output
