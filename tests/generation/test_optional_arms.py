"""Arms that are left out: with a reason, only where a file is missing and the row says that it may be."""

from pathlib import Path
from typing import Any

import pytest

from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.load import ParameterError
from vibe_pipeline.generation.methods import checked_tables
from vibe_pipeline.generation.optional_arms import without_missing
from vibe_pipeline.generation.peer_weights import PEER_FILES

X4 = "data/06_models/peers/real_esrgan_x4plus/RealESRGAN_x4plus.pth"
SR: dict[str, Any] = {"label": "Real-ESRGAN", "method": "sr", "optional": True, "sr": {"weights": X4}}


def params_of(reference: str = "plain", **arms: dict[str, Any]) -> dict[str, Any]:
    rows = {"plain": {"label": "plain", "method": "upsample"}} | arms
    return {"stage1": {}, "adapters": {}, "arms": rows, "evaluation": {"reference_arm": reference}, "generation": {}}


def settled(params: dict[str, Any], home: Path) -> dict[str, Any]:
    return without_missing(params, checked_tables(params), home)


def test_an_optional_arm_is_left_out_with_its_reason_and_the_command(tmp_path: Path) -> None:
    made = settled(params_of(sr=SR), tmp_path)
    assert list(made["arms"]) == ["plain"] and list(made["not_run"]) == ["sr"]
    left = made["not_run"]["sr"]
    assert left["label"] == "Real-ESRGAN"
    assert left["reason"] == f"not run, because sr.weights: {X4} does not exist"
    assert left["fix"] == f"kedro vibe fetch-weights {X4}"
    assert ArmParams(**left["row"]) == checked_tables(params_of(sr=SR)).arms["sr"]
    assert list(checked_tables(made).arms) == ["plain"]


def test_it_is_run_where_its_file_is_there_below_the_project(tmp_path: Path) -> None:
    (tmp_path / X4).parent.mkdir(parents=True)
    (tmp_path / X4).touch()
    made = settled(params_of(sr=SR), tmp_path)
    assert list(made["arms"]) == ["plain", "sr"] and made["not_run"] == {}


def test_any_other_arm_stays_for_the_checks_to_refuse(tmp_path: Path) -> None:
    made = settled(params_of(sr=SR | {"optional": False}), tmp_path)
    assert list(made["arms"]) == ["plain", "sr"] and made["not_run"] == {}


def test_every_kind_of_file_counts(tmp_path: Path) -> None:
    adapters = [
        {"path": "style.safetensors"},
        {"path": str(next(e.place(Path("peers")) for e in PEER_FILES if e.is_adapter))},
    ]
    rows = {
        "lora": {"label": "l", "optional": True, "extra_adapters": adapters},
        "theirs": {"label": "t", "optional": True, "method": "external", "path": "clips"},
    }
    left = settled(params_of(**rows), tmp_path)["not_run"]
    assert left["lora"]["reason"].startswith(
        "not run, because extra_adapters.0.path: style.safetensors does not exist; e"
    )
    assert (
        "put style.safetensors there; kedro vibe fetch-weights peers/cinescale_1_3b/pytorch_lora_weights.safe"
        in left["lora"]["fix"]
    )
    assert left["theirs"]["reason"] == "not run, because path: clips does not exist"


def test_the_reference_cannot_be_left_out(tmp_path: Path) -> None:
    with pytest.raises(
        ParameterError, match=r"reference_arm: 'sr' is optional .*RealESRGAN_x4plus\.pth does not exist"
    ):
        settled(params_of(reference="sr", sr=SR), tmp_path)


def test_a_swept_arm_is_left_out_variant_by_variant(tmp_path: Path) -> None:
    (tmp_path / "here.pth").touch()
    swept = SR | {"sr": {"weights": ["here.pth", "gone.pth"]}}
    from vibe_pipeline.experiment.sweeps import unfold

    made = settled(unfold(params_of(sr=swept)), tmp_path)
    assert len(made["not_run"]) == 1 and len(made["arms"]) == 2
