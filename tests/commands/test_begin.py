"""The first steps: an environment for one's own images, the schema for editors; and the runs that were."""

import json
import re
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
from vibe_pipeline.commands import before, begin
from vibe_pipeline.experiment.load import settled_parameters
from vibe_pipeline.experiment.run import TrackingParams
from vibe_pipeline.experiment.schema import parameters_schema
from vibe_pipeline.generation.methods import METHODS, checked_tables
from vibe_pipeline.planning.new_environment import BaseEnvironment, Written, real_models, write_environment
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
    assert "conf/mine, laid on wan22_ti2v_5b: 5 images in my pictures, 5 usable\n" in done.output
    assert "warning: 1344x2496 is the largest stage-2 size that most of the images fill (100% do), and " in done.output
    assert "MISSING   weights" in done.output and "fix: hf download" in done.output
    road = done.output.partition("\n\nonce nothing is missing (kedro vibe doctor --env=mine looks again), train,")[2]
    for command, takes in (
        ("kedro vibe rehearse --env=mine ", "a step or two"),
        ("kedro run --env=mine --pipelines=data_processing,relay_stage1,relay_stage2 ", "min by the plan, on one H100"),
        ('kedro vibe generate "a harbour at dawn" --env=mine ', "min a clip"),
    ):
        (line,) = [line for line in road.splitlines() if line.startswith(f"  {command}")]
        assert line.endswith(takes), line
    assert re.search(r"\nor the whole run, .*: [\d.]+ h by the plan, on one H100\n.*\n  kedro run --env=mine\n", road)
    assert road.endswith("an environment on --model=wan22_ti2v_5b_fast\n")
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
    counts = "6 images in my pictures, 2 usable"  # the same in all three
    assert f"conf/mine, laid on wan22_ti2v_5b: {counts}\n" in done.output
    said = f"MISSING   images: {counts}: 3 caption_missing (1.png: no text file beside it, and no metadata lists it), "
    assert said in done.output and "1 unsupported_format (live.heic: .heic: HEIF is not read" in done.output
    assert "data.min_usable_share asks for 50%: write what each shows into a .txt beside it, or lower" in done.output
    planned = call("plan", "--env", "mine", "--device", "h100").output
    assert f"images: counted as 2, but A RUN REFUSES THEM: {counts}: 3 caption_missing" in planned
    assert f"path: my pictures    # {counts}, median 1400x2500" in (project / "conf/mine/parameters.yml").read_text()


REAL = ("wan21_t2v_1_3b", "wan22_ti2v_5b", "main_table_1_3b", "main_table_5b", "wan22_t2v_a14b", "wan22_ti2v_5b_fast")


def test_real_models_are_told_apart_by_their_images(project: Path) -> None:
    assert real_models(project / "conf") == list(REAL)


@pytest.mark.parametrize("model", REAL)
def test_every_real_model_can_be_laid_on(project: Path, monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    """Its tables are whole, although not all of them have every row of a first run."""
    images(project, 1600, 2800, 2)
    monkeypatch.setattr(before.doctor, "callback", lambda **_: None)
    monkeypatch.setattr(begin, "_next_steps", lambda *_: "")
    done = call("init", "my pictures", "--model", model)
    assert done.exit_code == 0, done.output
    rows = checked_tables(settled_parameters(loader_of_conf(project / "conf", "mine")))
    assert list(rows.adapters) == ["full"] and list(rows.stage1) == ["modality"]
    expected = ["full", "upsample"] if model.startswith("main_table") else ["full", "no_adapter", "upsample"]
    assert list(rows.arms) == expected


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_whatever_fails_leaves_no_folder(project: Path, monkeypatch: pytest.MonkeyPatch, error: type) -> None:
    def fail(params: dict[str, Any]) -> None:
        assert (project / "conf/mine/parameters.yml").is_file()
        raise error

    images(project, 1600, 2800, 2)
    monkeypatch.setattr("vibe_pipeline.generation.methods.checked_tables", fail)
    assert call("init", "my pictures", "--model", "wan22_ti2v_5b").exit_code == 1
    assert not (project / "conf/mine").exists()


def test_without_a_model_the_real_ones_are_named(project: Path) -> None:
    images(project, 300, 400, 2)
    assert f"Missing option '--model'. One of {', '.join(REAL)}\n" in call("init", "my pictures").output


def fitted(project: Path, *sizes: tuple[int, int]) -> Written:
    """An environment on the 5B, whose own stage-2 size is 1536x2752, for a folder of images of these sizes."""
    folder = project / "pictures"
    folder.mkdir()
    for i, (height, width) in enumerate(sizes):
        Image.new("L", (width, height)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text("a picture")
    params = settled_parameters(loader_of_conf(project / "conf", "wan22_ti2v_5b"))
    tables: dict[str, dict[str, Any]] = {"stage1": {}, "adapters": {}, "arms": {}}
    return write_environment(project / "conf/mine", BaseEnvironment("wan22_ti2v_5b", params, tables, {}), folder)


def test_a_size_below_the_target_is_said_with_the_share_that_fills_it(project: Path) -> None:
    written = fitted(project, *[(1080, 1920)] * 9, (700, 700))
    assert written.note.startswith("1024x1920 is the largest stage-2 size that most of the images fill (90% do), and")
    assert "below the target, 1408x2560, at which clips are made: give larger images" in written.note
    assert written.images.counts.endswith("10 images in " + str(project / "pictures") + ", 9 usable")
    text = " ".join((project / "conf/mine/parameters.yml").read_text().replace("\n  # ", " ").split())
    assert f"{written.note}. Images that do not fill it are put aside and listed. high: {{height: 1024, w" in text


def test_a_size_above_the_target_is_no_fault(project: Path) -> None:
    assert fitted(project, (1500, 2700), (1500, 2700)).note.endswith("most of the images fill (100% do)")


def test_panoramas_shrink_the_size_to_what_their_bucket_takes(project: Path) -> None:
    """Of pixels they have more than enough; what counts is that their short side fills the longest bucket."""
    written = fitted(project, *[(1200, 3600)] * 4)
    high = written.images.data.high
    assert high.height * high.width < 1536 * 2752 and (written.images.usable, written.note != "") == (4, True)


def test_init_keeps_the_papers_size_where_images_fill_it(project: Path) -> None:
    images(project, 1536, 2752, 2)
    done = call("init", "my pictures", "--model", "wan22_ti2v_5b", "--name", "large")
    assert done.exit_code == 0, done.output
    assert "high" not in yaml.safe_load((project / "conf/large/parameters.yml").read_text())["data"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model", "wan22_ti2v_5b"], "most of the 5 images are too small: their median is 300x400"),
        (["--model", "wan22"], f"no such environment; those of real models: {', '.join(REAL)}"),
        (["--model", "miniature_fast"], "the miniature trains on your images with `kedro run --params=data.source=fol"),
        (["--model", "miniature_x4"], "--model miniature_x4: give a real model's environment: wan21_t2v_1_3b, wan22"),
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
