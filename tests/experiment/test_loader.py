"""Which parameters count: base, environment, `--params` and `--config`; the same for a run and all other readers."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from kedro.framework.cli.project import run as kedro_run
from kedro.framework.project import configure_project
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project

from tests.conf_files import loader_of_conf, read_conf, write_conf
from vibe_pipeline import pipeline_registry
from vibe_pipeline.cli import cli
from vibe_pipeline.planning import doctor, plan

ROOT = Path(__file__).parents[2]
OTHER = {"generation": {"prompts": "miniature", "negative_prompt": "none", "count": 5, "native_steps": 3}}
LOCAL = {
    "generation": {"count": 7},
    "tracking": {"experiment": "mine"},
    "model": {"native": {"frames": 5}, "target": {"frames": 5}},
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The shipped base with the address of a team's server, and an environment that has one group only."""
    monkeypatch.delenv("KEDRO_ENV", raising=False)
    for name in (
        "conf/base/parameters.yml",
        "conf/base/experiment.yml",
        "conf/base/catalog.yml",
        "conf/base/globals.yml",
        "pyproject.toml",
        ".telemetry",
    ):
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    params = read_conf(tmp_path / "conf/base")
    params["tracking"] = {"uri": "http://team:5000", "experiment": "ours"}
    write_conf(tmp_path / "conf/base", params)
    write(tmp_path, "other", OTHER)
    (tmp_path / "conf/local").mkdir()
    (tmp_path / "src").mkdir()
    monkeypatch.chdir(tmp_path)
    bootstrap_project(tmp_path)
    configure_project("vibe_pipeline")
    yield tmp_path
    configure_project("vibe_pipeline")


def write(project: Path, env: str, content: dict[str, Any]) -> None:
    (project / "conf" / env).mkdir(exist_ok=True)
    (project / "conf" / env / "parameters.yml").write_text(yaml.safe_dump(content))


@pytest.fixture
def of_run(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What `kedro run` with these options works with; nothing runs."""

    def read(*options: str) -> dict[str, Any]:
        seen: list[dict[str, Any]] = []

        def look(session: KedroSession, **_: Any) -> dict[str, Any]:
            seen.append(session.load_context().config_loader["parameters"])
            return {}

        monkeypatch.setattr(KedroSession, "run", look)
        done = CliRunner().invoke(kedro_run, options)
        if done.exception is not None:
            raise done.exception
        return seen[0]

    return read


@pytest.fixture
def of_vibe(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What a command of `kedro vibe` with these options works with."""

    def read(*options: str, command: str = "plan") -> dict[str, Any]:
        seen: list[dict[str, Any]] = []

        def look(params: dict[str, Any], *_: Any) -> Any:
            seen.append(params)
            raise ValueError("seen")

        monkeypatch.setattr(plan, "make_plan", look)
        monkeypatch.setattr(doctor, "examine", look)
        done = CliRunner().invoke(cli, ["vibe", command, *options])
        assert "seen" in done.output, done.output
        return seen[0]

    return read


# KEDRO_ENV, whether conf/local has parameters, options; dotted fields and what they must be.
CASES: dict[str, tuple[str | None, bool, list[str], dict[str, Any]]] = {
    "base": (None, False, [], {"generation.count": 32, "tracking.experiment": "ours"}),
    "local": (None, True, [], {"generation.count": 7, "generation.batch_size": 4, "model.native.frames": 5}),
    "local keeps the address": (None, True, [], {"tracking.uri": "http://team:5000", "tracking.experiment": "mine"}),
    "local keeps nested": (None, True, [], {"model.native.height": 48, "model.path": "data/06_models/base"}),
    "local and params": (
        None,
        True,
        ["--params=generation.count=2"],
        {"generation.count": 2, "generation.batch_size": 4},
    ),
    "address is kept": (
        None,
        True,
        ["--params=tracking.experiment=x"],
        {"tracking.uri": "http://team:5000", "tracking.experiment": "x"},
    ),
    "environment replaces a group": (
        None,
        True,
        ["--env=other"],
        {"generation.count": 5, "generation.batch_size": ...},
    ),
    "environment replaces local": (None, True, ["--env=other"], {"tracking.experiment": "ours"}),
    "environment and params": (
        None,
        True,
        ["--env=other", "--params=generation.native_steps=9,tracking.experiment=x"],
        {"generation.native_steps": 9, "generation.count": 5, "tracking.uri": "http://team:5000"},
    ),
    "group that the environment lacks": (
        None,
        False,
        ["--env=other", "--params=model.native.frames=5,model.target.frames=5"],
        {"model.native.frames": 5, "model.native.height": 48, "model.device": "cpu"},
    ),
    "KEDRO_ENV": ("other", True, [], {"generation.count": 5, "tracking.experiment": "ours"}),
    "KEDRO_ENV and params": ("other", True, ["--params=generation.count=2"], {"generation.count": 2}),
    "env before KEDRO_ENV": ("other", True, ["--env=base"], {"generation.count": 32}),
    "base by name": (None, True, ["-e", "base", "--params=generation.count=2"], {"generation.count": 2}),
    "row of a table": (
        None,
        True,
        ["--params=adapters.full.steps=3"],
        {"adapters.full.steps": 3, "adapters.full.batch_size": 2, "adapters.no_relay.start": "base"},
    ),
    "nested in a row": (
        None,
        False,
        ["--params=adapters.full.optimiser.learning_rate=0.5"],
        {"adapters.full.optimiser.learning_rate": 0.5},
    ),
    "kinds of values": (
        None,
        True,
        ["--params=run.hours=null,run.wait=true,generation.negative_prompt=a b,generation.seeds=[3],report.title=7x"],
        {"run.hours": None, "run.wait": True, "generation.negative_prompt": "a b", "generation.seeds": [3]},
    ),
    "file": (None, True, ["--config=run.yml"], {"generation.count": 4, "generation.seeds": [1, 2], "run.hours": None}),
    "file of an environment": (None, True, ["--config=env.yml"], {"generation.count": 4, "generation.native_steps": 3}),
    "options before file": (None, False, ["--config=env.yml", "--env=base"], {"generation.native_steps": 20}),
    "params before file": (None, False, ["--params=generation.skip=1", "-c", "run.yml"], {"generation.count": 32}),
    "folder of configuration": (None, False, ["--conf-source=conf2"], {"generation.count": 11}),
}
FILES = {
    "run.yml": {"run": {"params": {"generation": {"count": 4, "seeds": [1, 2]}, "run": {"hours": None}}}},
    "env.yml": {"run": {"env": "other", "tags": "training", "params": "generation.count=4"}},
}


def at(params: dict[str, Any], field: str) -> Any:
    found: Any = params
    for part in field.split("."):
        if part not in found:
            return ...
        found = found[part]
    return found


@pytest.mark.parametrize("case", CASES)
def test_every_reader_reads_the_same(project: Path, monkeypatch, of_run, of_vibe, case: str) -> None:
    env, local, options, expected = CASES[case]
    for name, content in FILES.items():
        (project / name).write_text(yaml.safe_dump(content))
    if local:
        write(project, "local", LOCAL)
    if env:
        monkeypatch.setenv("KEDRO_ENV", env)
    second = yaml.safe_load((project / "conf/base/parameters.yml").read_text())
    second["generation"]["count"] = 11
    (project / "conf2/local").mkdir(parents=True)
    (project / "conf2/base").mkdir()
    (project / "conf2/base/parameters.yml").write_text(yaml.safe_dump(second))
    shutil.copy(project / "conf/base/globals.yml", project / "conf2/base")
    params = of_run(*options)
    assert params.pop("not_run") == {}  # what a run adds: optional rows whose files are not here
    assert {field: at(params, field) for field in expected} == expected
    assert of_vibe(*options) == params
    assert of_vibe(*options, command="doctor") == params


def test_the_registry_reads_as_a_run_does(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`kedro registry list` has no context: the graph is that of the run, of conf/local and KEDRO_ENV."""
    monkeypatch.setattr(pipeline_registry, "_chosen", [])
    write(project, "local", {"generation": {"stop_after_preview": True}})
    assert set(pipeline_registry.register_pipelines()) == {"generation", "base_model", "__default__"}
    monkeypatch.setenv("KEDRO_ENV", "other")
    assert "vbench_eval" in pipeline_registry.register_pipelines()


def test_tables_of_any_environment_replace_those_of_base(project: Path, of_run) -> None:
    """Rows are an experiment: those of base do not stay beside them, in conf/local neither."""
    write(project, "local", {"arms": {"full": {"label": "Only one", "method": "upsample"}}})
    assert set(of_run()["arms"]) == {"full"}
    assert of_run("--params=arms.full.label=Two")["arms"] == {"full": {"label": "Two", "method": "upsample"}}


STARTED = {
    "extends": "other",
    "generation": {"count": 6},
    "report": {"title": "Ours"},
    "arms": {
        "direct": None,
        "full": {"steps": 9, "attention": {"kind": "full"}},
        "new": {"label": "N", "method": "upsample"},
    },
}


@pytest.fixture
def extended(project: Path) -> Path:
    """An environment with tables, and one that is laid on it."""
    rows = {
        "full": {"label": "Full", "steps": 5, "attention": {"kind": "gclf", "pool": 4}},
        "direct": {"label": "Direct", "method": "direct"},
        "gone": {"label": "Gone", "method": "upsample"},
    }
    write(project, "other", OTHER | {"arms": rows})
    write(project, "started", STARTED)
    return project


def test_an_environment_may_be_laid_on_another(extended: Path, of_run, of_vibe) -> None:
    """Groups field by field; of a table the rows that it names, fields as a whole; what it lacks is the other's."""
    params = of_run("--env=started")
    assert params["generation"] == OTHER["generation"] | {"count": 6}
    assert (
        "extends" not in params and at(params, "tracking.experiment") == "ours" and params["report"]["title"] == "Ours"
    )
    assert params["arms"] == {
        "direct": {"label": "Direct", "method": "direct"},
        "full": {"label": "Full", "steps": 9, "attention": {"kind": "full"}},
        "new": {"label": "N", "method": "upsample"},
    }
    assert set(params["adapters"]) == set(of_run()["adapters"]), "a table that neither has is base's"
    assert of_vibe("--env=started") == {name: group for name, group in params.items() if name != "not_run"}
    options = ["--env=started", "--params=generation.native_steps=8,arms.direct.steps=2,arms.full.steps=1"]
    given = of_run(*options)
    assert given["generation"] == params["generation"] | {"native_steps": 8}
    assert (given["arms"]["direct"]["steps"], given["arms"]["full"]["steps"]) == (2, 1)
    with pytest.raises(ValueError, match="arms has no row 'gone'"):
        of_run("--env=started", "--params=arms.gone.steps=2")


def test_claims_and_folders_of_the_environment_below_count_too(extended: Path) -> None:
    conf = extended / "conf"
    shutil.copy(ROOT / "conf/base/claims.yml", conf / "base/claims.yml")
    (conf / "other/globals.yml").write_text("folders: {data: /elsewhere}\n")
    loader = loader_of_conf(conf, "started")
    assert loader.file_of("claims") == conf / "base/claims.yml"
    assert loader["globals"]["folders"]["clips"].startswith("/elsewhere")
    (conf / "other/claims.yml").write_text("claims: []\n")
    assert loader_of_conf(conf, "started").file_of("claims") == conf / "other/claims.yml"
    (conf / "started/claims.yml").write_text("claims: []\n")
    assert loader_of_conf(conf, "started").file_of("claims") == conf / "started/claims.yml"


@pytest.mark.parametrize(
    ("parent", "words"),
    [
        ("othr", r"started extends 'othr': .*othr does not exist; did you mean 'other'\? environments: base, .*other"),
        ("base", "extends names another environment, not 'base'"),
        (["other"], "extends names another environment, not "),
        ("started", "goes round: started -> started"),
        ("round", "goes round: started -> round -> started"),
    ],
)
def test_an_environment_that_cannot_be_extended_is_refused(extended: Path, of_run, parent: object, words: str) -> None:
    write(extended, "round", {"extends": "started"})
    write(extended, "started", STARTED | {"extends": parent})
    with pytest.raises(ValueError, match=words) as caught:
        of_run("--env=started")
    assert "\n" not in str(caught.value)


def test_nothing_is_extended_from_the_command_line(extended: Path, of_run) -> None:
    with pytest.raises(ValueError, match="'extends' is not a group"):
        of_run("--env=other", "--params=extends=started")


REFUSED = {
    "generation.cuont=2": "generation has no field 'cuont'; did you mean 'count'?",
    "generatoin.count=2": "did you mean 'generation'?",
    "adapters.ful.steps=3": "did you mean 'full'?",
    "stage1.modalty.steps=3": "did you mean 'modality'?",
    "adapters.full.stpes=3": "adapters.full has no field 'stpes'; did you mean 'steps'?",
    "adapters.full.lora.rnak=3": "adapters.full.lora has no field 'rnak'; did you mean 'rank'?",
    "model.native.hieght=64": "model.native has no field 'hieght'; did you mean 'height'?",
    "arms.full.steps_are=share": "arms.full: steps_are has another name now; write strength_mode: all_steps",
    "arms.full.strength_mode=share": "arms.full.strength_mode: Input should be 'all_steps' or 'truncated'",
    "adapters.full.start=stage1": "adapters.full.start: 'stage1' is not a row of stage1 (modality)",
    "evaluation.vbench_cache=x": "write folders.vbench_weights in globals.yml",
    "folders.data=x": "folders are moved by a globals.yml in the environment's folder",
    "generation=5": "generation",
    "tracking=null": "tracking",
    "generation.native_steps=null": "generation.native_steps",
    "generation.count=many": "generation.count",
    "generation.seeds=4": "generation.seeds",
}


@pytest.mark.parametrize("given", REFUSED)
def test_what_is_wrong_is_said_alike_everywhere(project: Path, of_run, given: str) -> None:
    write(project, "local", LOCAL)
    with pytest.raises(ValueError, match=r".") as caught:
        of_run(f"--params={given}")
    message = str(caught.value)
    assert REFUSED[given] in message and "\n" not in message
    done = CliRunner().invoke(cli, ["vibe", "plan", f"--params={given}"])
    assert done.exit_code == 1 and done.output.strip() == f"Error: {message}"


def test_a_dotted_key_in_a_file_is_explained(project: Path, of_run) -> None:
    (project / "run.yml").write_text("run: {params: {generation.count: 2}}\n")
    with pytest.raises(ValueError, match=r"write the field inside its group, as `generation: \{count: \.\.\.\}`"):
        of_run("--config=run.yml")


def test_an_environment_that_is_not_there(project: Path, of_run, monkeypatch: pytest.MonkeyPatch) -> None:
    for options, variable in ((["--env=othr"], None), ([], "othr")):
        if variable:
            monkeypatch.setenv("KEDRO_ENV", variable)
        with pytest.raises(ValueError, match=r"conf/othr does not exist; did you mean 'other'\? environments: base, "):
            of_run(*options)
        assert "did you mean 'other'" in CliRunner().invoke(cli, ["vibe", "plan", *options]).output
    monkeypatch.delenv("KEDRO_ENV")
    (project / "conf/local").rmdir()
    with pytest.raises(ValueError, match="conf/local does not exist; make it, it may be empty"):
        of_run()


@pytest.mark.parametrize("content", ["- a\n", "plan: {env: base}\n", "run: [\n", "run: 3\n", "run: {evn: base}\n"])
def test_a_file_of_options_that_cannot_be_read(project: Path, content: str) -> None:
    (project / "run.yml").write_text(content)
    done = CliRunner().invoke(cli, ["vibe", "plan", "--config=run.yml"])
    assert (
        done.exit_code
        and not isinstance(done.exception, KeyError)
        and "run.yml" in done.output
        and "Traceback" not in done.output
    )


def test_interpolations_see_what_the_command_line_gives(project: Path, of_run) -> None:
    """As with Kedro's own loader: a value that refers to another follows it."""
    write(project, "local", {"generation": {"count": 7, "native_steps": "${generation.count}"}})
    assert of_run()["generation"]["native_steps"] == 7
    assert of_run("--params=generation.count=2")["generation"]["native_steps"] == 2


def test_compare_and_the_weights_take_the_same_options() -> None:
    for command in ("plan", "doctor", "fetch-weights", "vbench-env", "compare"):
        names = {option.name for option in cli.commands["vibe"].commands[command].params}
        assert names >= {"env", "params", "config", "conf_source"}, command
