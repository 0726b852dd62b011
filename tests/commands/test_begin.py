"""The first steps: an environment for one's own images, the schema for editors; and the runs that were."""

import json
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from click.testing import CliRunner, Result
from kedro.framework.project import configure_project
from PIL import Image

from tests.conf_files import loader_of_conf
from vibe_pipeline.cli import cli
from vibe_pipeline.commands import begin
from vibe_pipeline.experiment.load import settled_parameters
from vibe_pipeline.experiment.run import TrackingParams
from vibe_pipeline.experiment.schema import parameters_schema
from vibe_pipeline.generation.methods import METHODS
from vibe_pipeline.tracking import end_parent, start_parent

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
FILES = sorted(
    f for name in ("parameters.yml", "experiment.yml") for f in CONF.glob(f"*/{name}") if "local" not in str(f)
)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with the shipped configuration and a place for images."""
    shutil.copytree(CONF, tmp_path / "conf")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    monkeypatch.chdir(tmp_path)
    configure_project("vibe_pipeline")
    return tmp_path


def images(project: Path, height: int, width: int, count: int = 5) -> Path:
    folder = project / "my pictures"
    folder.mkdir()
    for i in range(count):
        Image.new("RGB", (width, height), (i, 0, 0)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"picture {i}")
    return folder


def call(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["vibe", *arguments])


def test_init_writes_an_environment_that_the_images_fill_and_doctor_looks_at_it(project: Path, monkeypatch) -> None:
    images(project, 1400, 2500)
    done = call("init", "my pictures", "--model", "wan22_ti2v_5b")
    assert done.exit_code == 0, done.output
    assert "conf/mine: 5 images, 5 with captions, on wan22_ti2v_5b" in done.output
    assert "MISSING   weights" in done.output and "fix: hf download" in done.output
    assert "once nothing is missing (kedro vibe doctor --env=mine looks again):" in done.output
    assert done.output.endswith("\nkedro run --env=mine\n")
    params = settled_parameters(loader_of_conf(project / "conf", "mine"))
    assert params["data"]["path"] == "my pictures" and params["data"]["source"] == "folder"
    high = params["data"]["high"]
    assert (high["height"], high["width"]) == (1344, 2496)  # whole pooled tokens of 64 pixels, no larger than an image
    assert params["model"]["target"]["height"] == 1408  # what it is laid on
    assert list(params["adapters"]) == ["full"] and list(params["arms"]) == ["full", "no_adapter", "upsample"]
    assert [claim["name"] for claim in params["claims"]] == ["refining_beats_upsampling"]
    schema = json.loads((CONF / begin.SCHEMA).read_text())
    for name in ("parameters.yml", "experiment.yml"):
        jsonschema.validate(yaml.safe_load((project / "conf/mine" / name).read_text()), schema)
    again = call("init", "my pictures", "--model", "wan22_ti2v_5b")
    assert again.exit_code == 1 and "conf/mine is there already; choose another --name" in again.output


def test_images_without_captions_are_told_before_a_run_stops_over_them(project: Path) -> None:
    folder = images(project, 1400, 2500)
    for i in (1, 2, 4):
        (folder / f"{i}.txt").unlink()
    (folder / "live.heic").write_bytes(b"x")
    done = call("init", "my pictures", "--model", "wan22_ti2v_5b")
    assert "conf/mine: 5 images, 2 with captions" in done.output
    said = "MISSING   images: 6 images in my pictures, 2 usable: 3 caption_missing (1.png: no text file beside it, "
    assert said in done.output and "data.min_usable_share asks for 50%" in done.output
    planned = call("plan", "--env", "mine", "--device", "h100").output
    assert "images: counted as 2, but A RUN REFUSES THEM: 6 images in my pictures, 2 usable: 3 caption" in planned


def test_init_keeps_the_papers_size_where_images_fill_it(project: Path) -> None:
    images(project, 1536, 2752, 2)
    done = call("init", "my pictures", "--model", "wan22_ti2v_5b", "--name", "large")
    assert done.exit_code == 0, done.output
    assert "high" not in yaml.safe_load((project / "conf/large/parameters.yml").read_text())["data"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model", "wan22_ti2v_5b"], "most of the 5 images are too small: their median is 300x400"),
        (["--model", "wan22"], "wan22_ti2v_5b"),
        (["--model", "base"], "the miniature trains on your images with `kedro run --params=data.source=folder"),
        (["--model", "wan22_ti2v_5b", "--name", "../x"], "--name '../x': letters"),
        (["--model", "wan22_ti2v_5b", "--name", "base"], "--name 'base': letters"),
    ],
)
def test_init_refuses_in_one_line_and_writes_nothing(project: Path, options: list[str], said: str) -> None:
    images(project, 300, 400)
    before = sorted(project.rglob("*.yml"))
    done = call("init", "my pictures", *options)
    assert done.exit_code == 1 and done.output.splitlines()[-1].startswith("Error: ") and said in done.output
    assert sorted(project.rglob("*.yml")) == before


def test_init_of_no_folder_is_one_line(project: Path) -> None:
    done = call("init", "nowhere", "--model", "wan22_ti2v_5b")
    assert done.exit_code == 1 and "nowhere" in done.output and not (project / "conf/mine").exists()


def test_the_shipped_schema_is_what_the_command_writes(project: Path) -> None:
    shipped = (CONF / begin.SCHEMA).read_text()
    (project / "conf" / begin.SCHEMA).unlink()
    done = call("schema")
    assert done.exit_code == 0 and f"conf/{begin.SCHEMA}" in done.output
    assert (project / "conf" / begin.SCHEMA).read_text() == shipped, "run `kedro vibe schema` and commit the file"


@pytest.mark.parametrize("file", FILES, ids=lambda f: f"{f.parent.name}-{f.stem}")
def test_every_shipped_file_fits_the_schema_and_names_it(file: Path) -> None:
    text = file.read_text()
    assert text.startswith(f"# yaml-language-server: $schema=../{begin.SCHEMA}\n")
    jsonschema.validate(yaml.safe_load(text), json.loads((CONF / begin.SCHEMA).read_text()))


@pytest.mark.parametrize(
    "wrong",
    [
        {"generation": {"cuont": 3}},
        {"generation": {"count": 0}},
        {"arms": {"full": {"strength": 1.5}}},
        {"arms": {"full": {"method": "refien"}}},
        {"adapters": {"full": {"attention": {"kind": "glcf"}}}},
        {"arms": {"full": {"family": "x"}}},
        {"nothing": {}},
    ],
)
def test_the_schema_finds_what_a_run_would_refuse(wrong: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, parameters_schema(list(METHODS)))


def test_the_schema_takes_what_a_run_takes() -> None:
    swept = {"arms": {"full": {"strength": [0.1, 0.2], "attention": {"kind": ["gclf", "full"]}}, "direct": None}}
    anchors = {"_train": {"anything": 1}, "extends": "wan22_ti2v_5b"}
    schema = jsonschema.validators.validator_for({})(parameters_schema(list(METHODS)))
    assert schema.is_valid(swept | anchors)
    swept["arms"]["full"]["strength"] = [0.1, "much"]
    assert not schema.is_valid(swept | anchors)


def test_every_field_of_the_schema_says_what_it_is() -> None:
    schema = parameters_schema(list(METHODS))
    parts = [*schema["$defs"].values(), *schema["properties"].values()]
    parts += [
        schema["properties"][table]["additionalProperties"]["anyOf"][0] for table in ("stage1", "adapters", "arms")
    ]
    fields = {name: field for part in parts for name, field in part.get("properties", {}).items()}
    assert len(fields) > 100 and not [name for name, field in fields.items() if not field.get("description")]


def test_report_says_the_result_again_and_opens_the_page(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    none = call("report")
    assert none.exit_code == 1 and "there is no report in data/08_reporting yet: `kedro run`" in none.output
    page = project / "data/08_reporting/report/index.html"
    page.parent.mkdir(parents=True)
    page.write_text("x")
    result = {
        "measures": ["PSNR ↑"],
        "arms": {"full": ["30.1"]},
        "more_arms": 0,
        "claims": [["✓", "holds", "it is so"]],
    }
    manifest = {"path": "data/08_reporting/report/index.html", "bytes": 1, "result": result}
    (project / "data/08_reporting/report.json").write_text(json.dumps(manifest))
    opened: list[str] = []
    monkeypatch.setattr(begin.click, "launch", opened.append)
    shown = call("report", "--open")
    assert shown.exit_code == 0 and "30.1" in shown.output and "✓ holds: it is so" in shown.output
    assert f"report   {page.as_uri()}" in shown.output and opened == [page.as_uri()]
    page.unlink()
    assert "makes it again" in call("report").output


def test_runs_are_listed_newest_first(project: Path) -> None:
    assert "no run yet" in call("runs").output
    for number in range(2):
        tags = {"git_commit": "0123456789abcdef+changes", "config_hash": str(number)}
        start_parent(TrackingParams(), project, f"base: number {number}", tags, {})
        end_parent("FINISHED" if number else "FAILED")
    shown = call("runs").output.splitlines()
    assert shown[0].split() == ["run", "begun", "minutes", "ended", "what", "commit"]
    assert "finished" in shown[1] and "number 1" in shown[1] and shown[1].endswith("01234567+changes")
    assert "failed" in shown[2] and "number 0" in shown[2]
    (only,) = json.loads(call("runs", "--json", "--last", "1").output)
    assert only["status"] == "FINISHED" and shown[1].startswith(only["run_id"][:8])
