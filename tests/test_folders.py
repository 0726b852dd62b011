"""Folders of globals.yml: an environment moves them, a whole run follows, and what is misspelt is refused."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from kedro.framework.project import configure_project
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project

from tests.conf_files import loader_of_conf, read_conf, write_conf
from vibe_pipeline.cli import cli
from vibe_pipeline.experiment.errors import ParameterError
from vibe_pipeline.experiment.folders import Folders
from vibe_pipeline.experiment.load import settled_parameters

ROOT = Path(__file__).parents[1]
SIZES = {
    "native": {"height": 32, "width": 32, "frames": 5, "fps": 8},
    "target": {"height": 64, "width": 64, "frames": 5, "fps": 8},
}


@pytest.fixture
def project(wan21, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shipped configuration with few rows of two steps, and an environment `moved` without parameters."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    for folder in ("conf/local", "conf/moved", "src"):
        (tmp_path / folder).mkdir(exist_ok=True, parents=True)
    for name in ("pyproject.toml", ".telemetry"):
        shutil.copy(ROOT / name, tmp_path)
    params = yaml.safe_load((tmp_path / "conf/base/parameters.yml").read_text()) | read_tables(tmp_path / "conf/base")
    params["model"] |= {"path": str(wan21.path), "text_length": 16, **SIZES}
    low, high = ({side: SIZES[name][side] for side in ("height", "width")} for name in SIZES)
    params["data"] |= {"count": 6, "held_out": 2, "low": low, "high": high}
    params["generation"] |= {"count": 2, "native_steps": 1}
    params["evaluation"] |= {"bootstrap_samples": 50, "vbench_dimensions": ["temporal_flickering"]}
    write_conf(tmp_path / "conf/base", params)
    monkeypatch.chdir(tmp_path)
    bootstrap_project(tmp_path)
    configure_project("vibe_pipeline")
    return tmp_path


def read_tables(folder: Path) -> dict[str, Any]:
    tables = read_conf(folder)
    few = {"steps": 2, "batch_size": 2, "log_every": 1}
    stage1 = {name: row | few for name, row in tables["stage1"].items()}
    full = tables["adapters"]["full"] | few | {"validate_every": 1, "validation_clips": 1}
    arms = {name: tables["arms"][name] | {"steps": 1} for name in ("full", "upsample", "truth")}
    return {"stage1": stage1, "adapters": {"full": full}, "arms": arms}


def move(project: Path, folders: dict[str, str]) -> None:
    (project / "conf/moved/globals.yml").write_text(yaml.safe_dump({"folders": folders}))


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_run_whose_folders_are_all_moved_writes_nothing_below_the_old_ones(project: Path, tmp_path: Path) -> None:
    """The folder of all data goes to one place, that of clips to another; plan and doctor look there too."""
    move(project, {"data": "elsewhere", "clips": str(tmp_path / "large disk/clips")})
    (project / "data").mkdir()
    with KedroSession.create(project, env="moved") as session:
        session.run()
    for command in ("plan", "doctor"):
        done = CliRunner().invoke(cli, ["vibe", command, "--env=moved"])
        assert isinstance(done.exception, SystemExit | None), done.output
    assert f"free at {tmp_path / 'large disk/clips'}" in done.output
    assert not list((project / "data").iterdir())
    below = files_below(project / "elsewhere")
    kept = {"02_intermediate", "03_primary", "05_model_input", "06_models", "07_model_output", "08_reporting", "01_raw"}
    assert {name.split("/")[0] for name in below} == {*kept, ".run.lock"}
    assert {"08_reporting/ablation_table.csv", "08_reporting/report/index.html", "06_models/adapters/full.json"} < below
    assert any(name.startswith("02_intermediate/planning/") for name in below)
    assert not any(name.startswith("07_model_output/clips/") for name in below)
    assert any(name.endswith(".mp4") for name in files_below(tmp_path / "large disk/clips"))
    out = CliRunner().invoke(
        cli, ["vibe", "export-adapter", "full", "--env=moved", "--to=comfyui", "--output=x.safetensors"]
    )
    assert out.exit_code == 0 and "from elsewhere/06_models/adapters" in out.output, out.output


def test_each_folder_is_moved_alone_or_with_the_one_that_holds_it(project: Path) -> None:
    shipped = Folders(**loader_of_conf("conf", "base")["globals"]["folders"])
    move(project, {"data": "/disk"})
    below_data = Folders(**loader_of_conf("conf", "moved")["globals"]["folders"])
    paths = {name: path for name, path in shipped if isinstance(path, Path)}
    assert paths
    for name, path in paths.items():
        assert getattr(below_data, name) == Path("/disk") / path.relative_to("data")
    move(project, {"models": "/models"})
    moved = Folders(**loader_of_conf("conf", "moved")["globals"]["folders"])
    changed = {name for name, path in shipped if getattr(moved, name) != path}
    assert (
        changed
        == {name for name, path in paths.items() if path.is_relative_to("data/06_models")}
        > {"models", "adapters"}
    )
    assert loader_of_conf("conf", "moved")["catalog"]["adapter-{name}"]["filepath"] == "/models/adapters/{name}.json"


def test_what_doctor_says_to_fetch_fills_the_folder_in_which_it_looked(project: Path, monkeypatch) -> None:
    monkeypatch.delenv("KEDRO_ENV", raising=False)
    params = read_conf(project / "conf/base")
    params["evaluation"] |= {"vbench_dimensions": ["aesthetic_quality"], "extra_measures": ["hd_lpips"]}
    write_conf(project / "conf/base", params)
    move(project, {"data": "elsewhere"})
    for env, data in (("", "data"), (" --env=moved", "elsewhere")):
        output = CliRunner().invoke(cli, ["vibe", "doctor", *env.split()]).output
        assert f"is not at {data}/06_models/vbench" in output and f"not at {data}/06_models/measures" in output
        fixes = [line.split("then ")[-1].split("fix: ")[-1] for line in output.splitlines() if "fix: " in line]
        for named in ("--dimensions aesthetic_quality", "--measures hd_lpips"):
            assert f"kedro vibe fetch-weights {named}{env}" in fixes, output
    below = settled_parameters(loader_of_conf("conf", "moved"))["folders"]
    assert Folders(**below).below(Path("rehearsal")).env_option == " --env=moved"


def test_everything_that_names_a_folder_of_data_names_it_by_globals() -> None:
    """No second home of a path: neither in the catalog, nor in parameters, nor in the code."""
    assert not [file for file in (ROOT / "conf").rglob("*.yml") if file.name != "globals.yml" and _names_data(file)]
    assert not [file for file in (ROOT / "src").rglob("*.py") if _names_data(file)]


def _names_data(file: Path) -> bool:
    """In a value: comments aside."""
    return any("data/0" in line.split("#")[0] or '"data/' in line for line in file.read_text().splitlines())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("folders: {clps: x}", "conf/moved/globals.yml: folders has no field 'clps'; did you mean 'clips'?"),
        ("folders: {clips: 3}", "conf/moved/globals.yml: folders.clips: Input is not a valid path"),
        ("folders: {env: mine}", "conf/moved/globals.yml: folders.env 'mine': take it out; --env chooses"),
        ("folders: [", "conf/moved/globals.yml cannot be read"),
        ("folders: {clips: '${folders.clps}/x'}", "conf/moved/globals.yml cannot be read: Interpolation key"),
    ],
)
def test_a_wrong_folder_is_one_line_that_names_the_file(project: Path, content: str, said: str) -> None:
    (project / "conf/moved/globals.yml").write_text(content)
    with pytest.raises(ParameterError) as caught:
        settled_parameters(loader_of_conf("conf", "moved"))
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_without_globals_or_with_folders_on_the_command_line_it_is_said_where_they_go(project: Path) -> None:
    with pytest.raises(ParameterError, match=r"folders are moved by a globals\.yml"):
        settled_parameters(loader_of_conf("conf", "base", runtime_params={"folders": {"data": "x"}}))
    (project / "conf/base/globals.yml").unlink()
    with pytest.raises(ParameterError, match=r"Globals key 'folders\.raw' not found"):
        settled_parameters(loader_of_conf("conf", "base"))
