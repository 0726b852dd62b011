"""What plan, doctor and a run's first look say of one folder: the same, and before anything is decoded."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.conf_files import loader_of_conf
from tests.planning.kept_plans import findings_of, plan_of
from vibe_pipeline.experiment.data import DataParams
from vibe_pipeline.experiment.load import settled_parameters
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.images.find import find_images
from vibe_pipeline.planning.preflight import check_images
from vibe_pipeline.planning.training_images import judge_images

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture
def params(tmp_path: Path) -> dict[str, Any]:
    """The 5B's, whose buckets need about 1536x2752, with six photographs of 1080x1920."""
    settled = settled_parameters(loader_of_conf(CONF, "wan22_ti2v_5b"))
    for i in range(6):
        Image.new("RGB", (1920, 1080), (i, 0, 0)).save(tmp_path / f"{i}.jpg")
        (tmp_path / f"{i}.txt").write_text("a picture")
    settled["data"] |= {"path": str(tmp_path)}
    return settled


def images_of(params: dict[str, Any]) -> tuple[str, str, str]:
    """Doctor's state and words, and the plan's."""
    (found,) = [f for f in findings_of(params) if f.item == "images"]
    (note,) = [n for n in plan_of(params).notes if n.startswith("images: ")]
    return found.state, found.found, note.removeprefix("images: ")


def test_images_too_small_for_their_buckets_are_told_before_a_run(params, tmp_path: Path) -> None:
    state, doctor, plan = images_of(params)
    seen = f"6 images in {tmp_path}, 0 usable: 6 too_small (0.jpg: 1080x1920 (height x width), needs 1536x2752"
    assert state == "missing" and doctor.startswith(seen) and plan == f"counted as 6, but A RUN REFUSES THEM: {doctor}"
    assert "lower data.high, 1536x2752, to what they fill (`kedro vibe init` writes" in doctor
    with pytest.raises(ValueError, match=r"6 images .* 0 usable: 6 too_small"):
        check_images(ModelParams(**params["model"]), DataParams(**params["data"]))


def test_sizes_that_they_fill_are_all_right(params, tmp_path: Path) -> None:
    params["data"] |= {"high": {"height": 1024, "width": 1920}}
    state, doctor, plan = images_of(params)
    assert state == "ok" and doctor == plan == f"6 images in {tmp_path}, 6 usable"


def test_a_share_that_suffices_is_all_right(params, tmp_path: Path) -> None:
    Image.new("RGB", (3000, 2000)).save(tmp_path / "0.jpg")
    Image.new("RGB", (3000, 2000), "red").save(tmp_path / "1.jpg")
    assert images_of(params)[0] == "missing"
    params["data"] |= {"min_usable_share": 0.3}
    state, doctor, plan = images_of(params)
    assert state == "ok" and doctor == plan and f"6 images in {tmp_path}, 2 usable: 4 too_small" in doctor


def test_a_model_that_is_not_known_is_another_finding(params, tmp_path: Path) -> None:
    model = ModelParams(**params["model"] | {"path": "somebody/unknown"})
    assert judge_images(find_images(tmp_path), model, DataParams(**params["data"])).usable == 6
