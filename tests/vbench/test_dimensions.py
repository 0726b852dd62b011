"""Readiness of VBench's dimensions, from files alone."""

import subprocess
import sys
import time
from importlib.util import find_spec

import pytest

from vibe_pipeline.vbench.dimensions import HUB_FOLDER, REGISTRY, dimension_of
from vibe_pipeline.vbench.prompts import INSTALL
from vibe_pipeline.vbench.readiness import Ready, Skipped, readiness
from vibe_pipeline.vbench.second_env import STAMP
from vibe_pipeline.vbench.totals import DIMENSIONS, QUALITY_DIMENSIONS

needs_vbench = pytest.mark.skipif(find_spec("vbench") is None, reason="vbench is not installed")
OWN_PROMPTS = {
    "object_class",
    "multiple_objects",
    "human_action",
    "color",
    "spatial_relationship",
    "scene",
    "appearance_style",
}


def fill(cache, name):
    for weight in dimension_of(name).weights:
        file = cache / weight.path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"weights")


def test_registry_has_the_sixteen_in_their_groups():
    assert set(REGISTRY) == set(DIMENSIONS) and len(REGISTRY) == 16
    assert {name for name, entry in REGISTRY.items() if entry.group == "quality"} == set(QUALITY_DIMENSIONS)
    assert {name for name, entry in REGISTRY.items() if entry.standard_prompts} == OWN_PROMPTS
    assert all(entry.sees for entry in REGISTRY.values())


@needs_vbench
@pytest.mark.parametrize("name", DIMENSIONS)
def test_registry_agrees_with_the_package(name):
    """Every file and address is one that vbench's own source names."""
    from pathlib import Path

    package = Path(find_spec("vbench").origin).parent
    source = "".join(file.read_text() for file in package.glob("*.py"))
    source += (package / "third_party" / "ViCLIP" / "simple_tokenizer.py").read_text()
    for weight in dimension_of(name).weights:
        assert weight.path.split("/")[-1] in source or weight.path.endswith("hubconf.py")
        assert weight.path.split("/")[0] in source
        assert weight.source in source


@needs_vbench
@pytest.mark.parametrize("name", DIMENSIONS)
def test_without_weights_the_reason_names_file_and_source(name, tmp_path):
    state = readiness(name, tmp_path)
    if name == "temporal_flickering":
        assert state == Ready(name)
        return
    assert isinstance(state, Skipped) and state.reason.startswith("skipped, because ")
    for weight in dimension_of(name).weights:
        assert f"{weight.path} is not at {tmp_path}" in state.reason
        assert weight.source in state.reason
        assert f"`kedro vibe fetch-weights --dimensions {name}`" in state.reason
    if name in OWN_PROMPTS:
        assert "VBench's own prompts" in state.reason


@needs_vbench
@pytest.mark.parametrize("name", ["motion_smoothness", "imaging_quality", "dynamic_degree", "temporal_style"])
def test_with_its_weights_it_is_ready(name, tmp_path):
    fill(tmp_path, name)
    assert readiness(name.replace("_", " "), tmp_path) == Ready(name)


@needs_vbench
def test_other_reasons(tmp_path):
    for name in DIMENSIONS:
        fill(tmp_path, name)
    for name in ("color", "object_class"):
        if find_spec("detectron2") is None:
            assert "the package detectron2 is not installed" in readiness(name, tmp_path).reason
    assert "transformers==4.33.2" in readiness("scene", tmp_path).reason
    assert "`kedro vibe vbench-env`" in readiness("scene", tmp_path).reason
    (tmp_path / "amt_model" / "amt-s.pth").write_bytes(b"")
    assert "amt-s.pth is empty" in readiness("motion_smoothness", tmp_path).reason


def test_the_fix_names_what_really_brings_the_dimension(tmp_path, monkeypatch):
    """Without vbench, its weights change nothing; labels are a matter of the prompts."""
    weights = "kedro vibe fetch-weights --dimensions {}"
    absent = {"vbench", "decord"}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in absent else object())
    assert readiness("temporal_flickering", tmp_path).fix == INSTALL
    assert readiness("motion_smoothness", tmp_path).fix == f"{INSTALL}; then {weights.format('motion_smoothness')}"
    assert readiness("scene", tmp_path, labelled=True).fix.startswith("kedro vibe vbench-env; then ")
    absent = {"detectron2"}
    assert readiness("color", tmp_path).fix == (
        "set generation.prompts to vbench_subset or vbench_standard; then build detectron2 from its own repository: "
        f"it is on no package index; then {weights.format('color')}"
    )
    absent = set()
    assert readiness("aesthetic_quality", tmp_path).fix == weights.format("aesthetic_quality")


def test_commands_name_the_environment_whose_folders_lack_something(tmp_path, monkeypatch):
    """Without it they would fill the folders of base."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    lacking = readiness("aesthetic_quality", tmp_path, env_option=" --env=mine")
    assert lacking.fix == "kedro vibe fetch-weights --dimensions aesthetic_quality --env=mine"
    assert f"get it with `{lacking.fix}`, which takes it from" in lacking.reason
    pinned = readiness("scene", tmp_path, labelled=True, env_option=" --env=mine")
    assert pinned.fix.startswith("kedro vibe vbench-env --env=mine; then kedro vibe fetch-weights --dimensions scene")
    assert pinned.fix.count("--env=mine") == 2
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "vbench" else object())
    assert "`kedro vibe vbench-env --env=mine`" in readiness("scene", tmp_path, True, None, " --env=mine").reason


@needs_vbench
@pytest.mark.parametrize("name", ["human_action", "appearance_style"])
def test_vbenchs_own_prompts_bring_their_labels(name, tmp_path):
    fill(tmp_path, name)
    assert "VBench's own prompts" in readiness(name, tmp_path).reason
    assert readiness(name, tmp_path, labelled=True) == Ready(name)


def environment(folder, packages):
    """What looks like a finished second environment."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").touch()
    for package in packages:
        (folder / "lib" / "python3.11" / "site-packages" / package).mkdir(parents=True)
    (folder / STAMP).touch()
    return folder


@needs_vbench
def test_the_second_environment_takes_what_cannot_run_here(tmp_path):
    for name in ("scene", "color"):
        fill(tmp_path, name)
    (tmp_path / HUB_FOLDER / "models--bert-base-uncased").mkdir(parents=True)
    second = environment(tmp_path / "second", ["vbench", "timm", "transformers"])
    assert readiness("scene", tmp_path, True, second) == Ready("scene", second / "bin" / "python")
    if find_spec("detectron2") is None:
        assert "detectron2 is not installed" in readiness("color", tmp_path, True, second).reason
        (second / "lib/python3.11/site-packages/detectron2").mkdir()
        assert readiness("color", tmp_path, True, second) == Ready("color", second / "bin" / "python")
    (second / STAMP).unlink()
    assert "`kedro vibe vbench-env`" in readiness("scene", tmp_path, True, second).reason


def test_unknown_dimension_lists_the_sixteen(tmp_path):
    with pytest.raises(ValueError, match="unknown VBench dimension 'beauty'") as error:
        readiness("beauty", tmp_path)
    assert all(name in str(error.value) for name in DIMENSIONS)


def test_it_takes_milliseconds_and_imports_nothing(tmp_path):
    readiness("aesthetic_quality", tmp_path)
    start = time.process_time()
    for name in DIMENSIONS:
        readiness(name, tmp_path)
    assert time.process_time() - start < 0.5
    code = (
        "import sys; from pathlib import Path; from vibe_pipeline.vbench.dimensions import REGISTRY\n"
        "from vibe_pipeline.vbench.readiness import readiness\n"
        "before = set(sys.modules)\n"
        "[readiness(name, Path('nowhere')) for name in REGISTRY]\n"
        "print([m for m in ('vbench', 'torch', 'clip', 'cv2', 'huggingface_hub') if m in set(sys.modules) - before])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
