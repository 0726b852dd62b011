"""Parameters: files that are not YAML, or unsafe, and values that no field takes. Kedro reads them as in a run."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conf_files import loader_of_conf
from vibe_pipeline.experiment.load import check_groups, experiment_of, read_parameters

CONF = Path(__file__).parents[2] / "conf"
FILE = "parameters.yml"
FILES = {
    "key twice": ({FILE: "model: {}\nmodel: {}\n"}, "base/parameters.yml", "duplicate key model"),
    "nested key twice": ({FILE: "model:\n  path: a\n  path: b\n"}, "base/parameters.yml", "duplicate key path"),
    "object": ({FILE: "a: !!python/object/apply:os.mkdir ['MARKER']\n"}, "base/parameters.yml", "os.mkdir"),
    "new object": ({FILE: "a: !!python/object/new:os.mkdir ['MARKER']\n"}, "base/parameters.yml", "os.mkdir"),
    "name": ({FILE: "a: !!python/name:os.system\n"}, "base/parameters.yml", "os.system"),
    "module": ({FILE: "a: !!python/module:os\n"}, "base/parameters.yml", "python/module"),
    "own tag": ({FILE: "a: !mine 3\n"}, "base/parameters.yml", "!mine"),
    "tab": ({FILE: "model:\n\tpath: x\n"}, "base/parameters.yml", "line 2, column 1: tabs are not allowed in YAML"),
    "tab behind a value": ({FILE: "a:\n  b: 1\n\tc: 2\n"}, "base/parameters.yml", "line 3, column", "use spaces"),
    "bracket open": ({FILE: "a: [1, 2\n"}, "base/parameters.yml", "line 2, column 1: ", "expected ',' or ']'"),
    "quote open": ({FILE: "a: 'b\n"}, "base/parameters.yml", "base/parameters.yml"),
    "two colons": ({FILE: "a: b: c\n"}, "base/parameters.yml", "base/parameters.yml"),
    "unknown alias": ({FILE: "a: *nowhere\n"}, "base/parameters.yml", "undefined alias"),
    "list": ({FILE: "- model\n- data\n"}, "base/parameters.yml", "list"),
    "not UTF-8": ({FILE: b"a: caf\xe9\n"}, "base/parameters.yml", "0xe9", "`iconv -f WINDOWS-1252 -t UTF-8 "),
    "UTF-16 without mark": ({FILE: "a: b\n".encode("utf-16-le")}, "base/parameters.yml", "x0000"),
    "NUL": ({FILE: b"a: \0\n"}, "base/parameters.yml", "x0000"),
    "refers to nothing": ({FILE: "a: ${nope}\n"}, "base/parameters.yml", "nope"),
    "asks for the environment": ({FILE: "a: ${oc.env:SECRET_OF_TEST}\n"}, "base/parameters.yml", "oc.env"),
    "in the second file": ({FILE: "a: 1\n", "parameters_b.yml": "b: [\n"}, "base/parameters_b.yml", "line 2, column 1"),
    "in the tables": ({FILE: "a: 1\n", "experiment.yml": "arms: [\n"}, "base/experiment.yml", "line 2, column 1"),
    "same key in two files": ({FILE: "a: 1\n", "parameters_b.yml": "a: 2\n"}, "base", "Duplicate keys"),
}


def load(folder: Path) -> dict[str, Any]:
    return read_parameters(loader_of_conf(folder, default_run_env="base"))


@pytest.mark.parametrize("case", FILES)
def test_a_file(tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable, case: str) -> None:
    monkeypatch.setenv("SECRET_OF_TEST", "hf_secret")
    files, *named = FILES[case]
    (tmp_path / "base").mkdir()
    for name, content in files.items():
        content = content.replace("MARKER", str(marker)).encode() if isinstance(content, str) else content
        (tmp_path / "base" / name).write_bytes(content)
    assert "hf_secret" not in refused(lambda: load(tmp_path), *named)


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / FILE).write_text("\ufeffmodel: {path: x}\n", encoding="utf-8")
    assert load(tmp_path) == {"model": {"path": "x"}}


class Delete:
    """Stands for taking a field away."""

    def __repr__(self) -> str:
        return "DELETE"


DELETE = Delete()
NAN, INFINITY = float("nan"), float("inf")
ARM = {"label": "x", "method": "upsample"}
# Dotted field, the value put there, and what the message names beside the field.
VALUES: list[tuple[str, Any, str]] = [
    ("model", None, "None"),
    ("model", [], "[]"),
    ("model", DELETE, "missing"),
    ("adapters", DELETE, "missing"),
    ("evaluation.reference_arm", DELETE, "required"),
    ("evaluation.reference_arm", ["full"], "['full']"),
    ("modle", {}, "did you mean 'model'?"),
    ("model.path", 7, "7"),
    ("model.path", None, "None"),
    ("model.native.height", "tall", "'tall'"),
    ("model.native.height", 64.5, "64.5"),
    ("model.native.height", -64, "-64"),
    ("model.native.height", True, "True"),
    ("model.native.width", NAN, "nan"),
    ("model.native.frames", 10, "10"),
    ("model.native.fps", INFINITY, "inf"),
    ("model.native.depth", 3, "model.native has no field 'depth'"),
    ("model.native", [64, 64], "[64, 64]"),
    ("model.flow_shift", NAN, "nan"),
    ("model.flow_shift", INFINITY, "inf"),
    ("model.flow_shift", "5,0", "'5,0'"),
    ("model.tile", 0, "0"),
    ("model.threads", -1, "-1"),
    ("model.text_length", "long", "'long'"),
    ("model.offload", "perhaps", "'perhaps'"),
    ("model.offload", "block", "should be 'blocks'"),
    ("data.path", 3, "3"),
    ("data.count", 0, "0"),
    ("data.count", "all", "'all'"),
    ("data.low", {"height": 4096, "width": 4096}, "4096x4096"),
    ("data.max_aspect", 0.5, "0.5"),
    ("data.max_aspect", NAN, "nan"),
    ("data.camera_blur", INFINITY, "inf"),
    ("data.min_usable_share", NAN, "nan"),
    ("data.min_usable_share", -0.1, "-0.1"),
    ("data.held_out", True, "True"),
    ("data.buckets", "round", "'round'"),
    ("generation.cuont", 2, "generation has no field 'cuont'; did you mean 'count'?"),
    ("arms.full.extra_adapters", [{"path": "a", "wieght": 1}], "has no field 'wieght'; did you mean 'weight'?"),
    ("adapters.full.attention.pol", 2, "adapters.full.attention has no field 'pol'; did you mean 'pool'?"),
    ("generation.seeds", "0", "'0'"),
    ("generation.seeds", [0.5], "0.5"),
    ("generation.seeds", [1, 1], "[1, 1]"),
    ("generation.shard", "3/2", "3/2"),
    ("generation.shard", "0/2", "'0/2'"),
    ("generation.shard", "../..", "'../..'"),
    ("generation.native_guidance_scale", NAN, "nan"),
    ("generation.skip", -1, "-1"),
    ("generation.negative_prompt", ["a"], "['a']"),
    ("evaluation.fine_band", [3], "fine_band"),
    ("evaluation.fine_band", [NAN, 3], "nan"),
    ("evaluation.vbench_dimensions", "all", "'all'"),
    ("evaluation.workers", 0, "0"),
    ("evaluation.confidence", NAN, "nan"),
    ("evaluation.bootstrap_samples", 1.5, "1.5"),
    ("tracking.clips_per_arm", NAN, "nan"),
    ("tracking.hours", 3, "tracking has no field 'hours'; it has uri, experiment"),
    ("run.hours", 0, "0"),
    ("run.hours", NAN, "nan"),
    ("run.wait", "soon", "'soon'"),
    ("report.title", None, "None"),
    ("stage1", [], "[]"),
    ("stage1", None, "None"),
    ("arms", {}, "not a row of arms"),
    ("adapters", {}, "not a row of adapters"),
    ("arms", "full", "'full'"),
    ("stage1.modality", None, "None"),
    ("stage1.modality.steps", "many", "'many'"),
    ("stage1.modality.steps", True, "True"),
    ("stage1.modality.batch_size", 0, "0"),
    ("stage1.modality.optimiser", "adamw", "'adamw'"),
    ("stage1.modality.optimiser.learning_rate", NAN, "nan"),
    ("stage1.modality.optimiser.learning_rate", "1e-4x", "'1e-4x'"),
    ("stage1.modality.optimiser.learning_rate", INFINITY, "inf"),
    ("stage1.modality.lora.alpha", NAN, "nan"),
    ("stage1.modality.lora.ranks", 4, "stage1.modality.lora has no field 'ranks'; did you mean 'rank'?"),
    ("stage1.modality.ema_decay", 1.0, "1.0"),
    ("stage1.modality.processes", 10_000, "10000"),
    ("adapters.full.objective.hfato", NAN, "nan"),
    ("adapters.full.objective", {"hfato": 0}, "all loss weights are 0"),
    ("adapters.full.degradation.factor", NAN, "nan"),
    ("adapters.full.start", "../base", "'../base'"),
    ("adapters.full.start", "nowhere", "'nowhere'"),
    ("adapters.full.attention.pool", 1.5, "1.5"),
    ("adapters.full.attention.half_window", [1, 2, 3], "half_window"),
    ("adapters.full.attention.scale", NAN, "nan"),
    ("adapters.full.label", None, "None"),
    ("arms.full.strength", NAN, "nan"),
    ("arms.full.guidance_scale", INFINITY, "inf"),
    ("arms.full.extra_adapters", [{"weight": 1}], "path"),
    ("arms.full.extra_adapters", [{"path": "a.safetensors", "weight": NAN}], "nan"),
    ("arms.full.adapter", "no_such", "'no_such'"),
    ("arms.full.sigma", 0.5, "arms.full has no field 'sigma'"),
    ("arms.full.steps", [], "empty list"),
    ("arms.../../up", ARM, "../../up"),
    ("arms.Full", ARM, "Full"),
    ("tracking.token", "hf_0123456789abcdef", "tracking has no field 'token'"),
    ("tracking.mlflow_password", "hf_0123456789abcdef", "tracking has no field 'mlflow_password'"),
    ("tracking.url", "https://me:hf_0123456789abcdef@host", "tracking has no field 'url'; did you mean 'uri'?"),
]


@pytest.fixture(scope="module")
def base() -> dict[str, Any]:
    """The repository's own, which are right."""
    params = read_parameters(loader_of_conf(CONF, "base"))
    check_groups(params)
    assert experiment_of(params).arms
    return params


def put(params: dict[str, Any], field: str, value: Any) -> None:
    table, _, rest = field.partition(".")
    parts = [table, rest] if rest.startswith(".") else field.split(".")
    for part in parts[:-1]:
        params = params.setdefault(part, {})  # what the file leaves to defaults
    if value is DELETE:
        del params[parts[-1]]
    else:
        params[parts[-1]] = value


@pytest.mark.parametrize(("field", "value", "named"), VALUES, ids=[f"{f}={v!r}"[:60] for f, v, _ in VALUES])
def test_a_value(base: dict[str, Any], refused: Callable, field: str, value: Any, named: str) -> None:
    params = copy.deepcopy(base)
    put(params, field, value)

    def use() -> None:
        check_groups(params)
        experiment_of(params)

    message = refused(use, field.split(".")[-1], named)
    assert "hf_0123456789abcdef" not in message
