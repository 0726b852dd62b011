"""The parameters: wrong values are refused by the name of their field; the tables agree with each other."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from tests.conf_files import loader_of_conf
from vibe_pipeline.experiment.adapters import AdapterParams, DegradationParams
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.attention import AttentionParams
from vibe_pipeline.experiment.data import DataParams
from vibe_pipeline.experiment.evaluation import EvaluationParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.experiment.load import GROUPS, settled_parameters
from vibe_pipeline.experiment.model import ClipSize, ModelParams
from vibe_pipeline.experiment.run import TrackingParams
from vibe_pipeline.experiment.tables import Experiment
from vibe_pipeline.experiment.training import LoraParams, OptimiserParams, Stage1Params

SIZE = {"height": 64, "width": 64}
MODEL = {"path": "x", "native": SIZE | {"frames": 9}, "target": SIZE | {"frames": 9}}
DATA = {"path": "x", "low": SIZE, "high": SIZE}
EVALUATION = {
    "vbench_dimensions": ["temporal_flickering"],
    "fine_band": [1, 2],
    "reference_arm": "a",
}
ARM = {"label": "x"}

WRONG: list[tuple[type[BaseModel], dict[str, Any], str]] = [
    (ClipSize, SIZE | {"height": 0}, "height"),
    (ClipSize, SIZE | {"frames": 8}, "frames\n.*4k . 1 frames: 8 is not; nearest 9"),
    (ClipSize, SIZE | {"fps": -1}, "fps"),
    (ModelParams, MODEL | {"target": SIZE | {"frames": 5}}, "target.frames 5 differs from native.frames 9"),
    (ModelParams, MODEL | {"dtype": "float8"}, "dtype"),
    (ModelParams, MODEL | {"device": "tpu"}, "device"),
    (ModelParams, MODEL | {"flow_shift": 0}, "flow_shift"),
    (ModelParams, MODEL | {"tread": 1}, "tread.*\n.*Extra inputs"),
    (DataParams, DATA | {"min_usable_share": 1.5}, "min_usable_share"),
    (DataParams, DATA | {"camera_blur": -0.1}, "camera_blur"),
    (DataParams, DATA | {"source": "web"}, "source"),
    (LoraParams, {"rank": 0}, "rank"),
    (LoraParams, {"targets": []}, "targets"),
    (OptimiserParams, {"learning_rate": 0}, "learning_rate"),
    (OptimiserParams, {"schedule": "linear"}, "schedule"),
    (OptimiserParams, {"clip_norm": 0}, "clip_norm"),
    (AttentionParams, {"pool": 1}, "pool"),
    (AttentionParams, {"half_window": [1]}, "half_window"),
    (AttentionParams, {"half_window": [0, 3]}, "half_window"),
    (DegradationParams, {"factor": 1.0}, "factor"),
    (DegradationParams, {"kind": "salt"}, "kind"),
    (DegradationParams, {"kind": "noise", "std": 0}, "std"),
    (DegradationParams, {"kind": "blur", "kernel": 4}, "kernel.*\n.*4 has no middle: .* such as 5"),
    (DegradationParams, {"kind": "blur", "sigma": 0.0}, "sigma"),
    (DegradationParams, {"std": 0.1}, "std belongs to noise, not to degradation kind 'latent'"),
    (DegradationParams, {"kind": "noise", "kernel": 3}, "kernel belongs to blur, not to degradation kind 'noise'"),
    (DegradationParams, {"kind": "pixel", "factor": 0.25}, "factor belongs to latent, not to degradation kind 'pixel'"),
    (DegradationParams, {"kind": "blur", "mode": "nearest"}, "mode belongs to latent, not to degradation kind 'blur'"),
    (AdapterParams, {"label": "x", "objective": {"hfato": 0.0}}, "all loss weights are 0"),
    (AdapterParams, {"label": "x", "objective": {"hfato": -1.0}}, "hfato"),
    (AdapterParams, {"label": "x", "objective": {"hfatto": 1.0}}, "hfatto"),
    (Stage1Params, {"steps": 0}, "steps"),
    (Stage1Params, {"attention": {"kind": "gclf"}}, "attention"),
    (AdapterParams, {"label": "x", "start": "Stage 1"}, "start"),
    (ArmParams, ARM | {"strength": 0.0}, "strength"),
    (ArmParams, ARM | {"strength": 1.01}, "strength"),
    (AdapterParams, {"label": "x", "validation_clips": 2}, "give validate_every a number"),
    (ArmParams, ARM | {"guidance_scale": 0.5}, "guidance_scale"),
    (ArmParams, ARM | {"method": "A b"}, "method"),
    (ArmParams, ARM | {"keep_stage1": True}, "keep_stage1 needs an adapter"),
    (GenerationParams, {"prompts": "miniature", "seeds": []}, "seeds"),
    (GenerationParams, {"prompts": "miniature", "seeds": [1, 2, 1]}, "seeds.*\n.*stands twice"),
    (GenerationParams, {"prompts": "miniature", "count": 0}, "count"),
    (EvaluationParams, EVALUATION | {"vbench_dimensions": []}, "vbench_dimensions"),
    (EvaluationParams, EVALUATION | {"fine_band": [20, 13]}, "fine_band.*\n.*must rise"),
    (EvaluationParams, EVALUATION | {"confidence": 95}, "confidence"),
    (TrackingParams, {"clips_per_arm": -1}, "clips_per_arm"),
    (
        ArmParams,
        ARM | {"steps": True},
        r"steps.*\n.*expected a number, got the boolean True \(YAML reads yes/no/on/off",
    ),
    (ArmParams, ARM | {"scheduler": False}, r"scheduler.*\n.*expected text, got the boolean False"),
    (GenerationParams, {"count": True}, r"count.*\n.*expected a number, got the boolean True"),
]


@pytest.mark.parametrize(("params", "values", "message"), WRONG, ids=lambda v: getattr(v, "__name__", None))
def test_a_wrong_value_is_refused_by_name(params: type[BaseModel], values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        params(**values)


@pytest.mark.parametrize(
    ("params", "values"),
    [(ModelParams, MODEL), (DataParams, DATA), (EvaluationParams, EVALUATION), (ArmParams, ARM), (ClipSize, SIZE)],
)
def test_the_values_that_were_changed_are_right_otherwise(params: type[BaseModel], values: dict[str, Any]) -> None:
    made = params(**values)
    assert params(**made.model_dump(mode="json")) == made
    with pytest.raises(ValidationError, match="frozen"):
        made.label = made.height = made.path = "other"


def test_prompts_are_the_miniatures_or_a_file() -> None:
    assert GenerationParams(prompts="miniature").prompts == "miniature"
    assert GenerationParams(prompts="prompts.txt").prompts == Path("prompts.txt")


def tables(**changes: dict[str, Any]) -> Experiment:
    rows: dict[str, Any] = {
        "stage1": {"modality": {}},
        "adapters": {"full": {"label": "Full"}, "naive": {"label": "Naive", "start": "base"}},
        "arms": {"full": {"label": "Full", "adapter": "full"}, "plain": {"label": "Plain", "method": "upsample"}},
        "reference_arm": "full",
    }
    return Experiment(**(rows | changes))


def test_tables_that_agree_are_kept_as_they_are() -> None:
    assert list(tables().arms) == ["full", "plain"]
    kept = tables(arms={"full": {"label": "x", "adapter": "full", "keep_stage1": True}})
    assert kept.arms["full"].keep_stage1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage1": {}}, r"adapters\.full\.start: 'modality' is not a row"),
        ({"adapters": {"naive": {"label": "x", "start": "base"}}}, r"arms\.full\.adapter: 'full' is not a row"),
        ({"reference_arm": "ful"}, "reference_arm: 'ful' is not a row"),
        (
            {"arms": {"full": {"label": "x", "adapter": "naive", "keep_stage1": True}}},
            r"arms\.full\.keep_stage1.*starts from the base",
        ),
        ({"stage1": {"modality": {}, "base": {}}}, r"stage1\.base"),
        ({"stage1": {"modality": {}, "full": {}}}, r"adapters\.full: stage1 has a row of that name"),
        ({"arms": {"Full Arm": {"label": "x"}}}, "Full Arm"),
        ({"arms": {"full": {"label": "x", "steps": -1}}}, r"arms\.full\.steps"),
    ],
)
def test_tables_that_contradict_each_other_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        tables(**changes)


CONF = Path(__file__).parents[2] / "conf"
ENVIRONMENTS = sorted({p.parent.name for p in CONF.glob("*/parameters.yml")} - {"local"})


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_every_environment_of_the_repository_is_valid(env: str) -> None:
    loaded = settled_parameters(loader_of_conf(CONF, env, default_run_env="base"))
    for name, group, _ in GROUPS:
        assert group(**loaded[name])
    rows = {name: loaded[name] for name in ("stage1", "adapters", "arms")}
    assert Experiment(**rows, reference_arm=loaded["evaluation"]["reference_arm"]).arms


def test_validation_clips_are_made_as_the_first_arm_of_the_adapter_does() -> None:
    adapters = {"a": AdapterParams(label="a", start="base"), "b": AdapterParams(label="b", start="base")}
    arms = {"x": ArmParams(label="x"), "y": ArmParams(label="y", adapter="a"), "z": ArmParams(label="z", adapter="a")}
    tables = Experiment(stage1={}, adapters=adapters, arms=arms, reference_arm="x")
    assert tables.arm_of("a") == "y"
    with pytest.raises(ValueError, match=r"adapters\.b\.validation_clips: no arm uses"):
        tables.arm_of("b")


def test_an_environments_own_files_count_because_they_lie_there(tmp_path: Path) -> None:
    """The environment's before base's, conf/local without one; each file whole."""
    for place in ("base/claims", "base/published", "mine/claims", "local/published"):
        path = tmp_path / f"{place}.yml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{place[-9:]}: [{place}]\n")

    def counting(env: str | None) -> dict[str, Path]:
        loader = loader_of_conf(tmp_path, env)
        files = {kind: loader.file_of(kind) for kind in ("claims", "published")}
        assert all(loader[kind] == yaml.safe_load(file.read_text()) for kind, file in files.items())
        return files

    assert counting("mine") == {"claims": tmp_path / "mine/claims.yml", "published": tmp_path / "base/published.yml"}
    assert counting(None) == {"claims": tmp_path / "base/claims.yml", "published": tmp_path / "local/published.yml"}
    (tmp_path / "base/published.yml").unlink()
    assert loader_of_conf(tmp_path, "mine").file_of("published") is None
    assert loader_of_conf(tmp_path, "mine")["published"] == {}


@pytest.mark.parametrize("env", ["miniature_study", "miniature_sweeps", "miniature_x4"])
def test_the_studies_put_their_own_claims_to_the_test(env: str) -> None:
    settled = settled_parameters(loader_of_conf(CONF, env))
    own = yaml.safe_load((CONF / env / "claims.yml").read_text())["claims"]
    assert [claim["name"] for claim in settled["claims"]] == [claim["name"] for claim in own]
    assert {"columns", "tables"} <= set(settled["published"])
