"""What measures that are asked for by name add to a plan, and what doctor and a run say of them."""

from pathlib import Path

import pytest
import torch
import torchvision
from torch.utils.flop_counter import FlopCounterMode

from tests.planning.kept_plans import findings_of, plan_of
from tests.planning.test_plan import params
from vibe_pipeline.evaluation.metrics.asked import ASKED
from vibe_pipeline.experiment.evaluation import EvaluationParams
from vibe_pipeline.experiment.folders import Folders
from vibe_pipeline.experiment.model import ClipSize
from vibe_pipeline.planning.measure_costs import (
    MEASURE_SECONDS,
    extra_seconds,
    measuring_memory,
    measuring_seconds,
    network_teraflops,
)
from vibe_pipeline.planning.preflight import scoring_checks

__all__ = ["params"]

FOUR_K = ClipSize(height=2176, width=3840, frames=81)
MEGAPIXELS = 2176 * 3840 * 81 / 1e6
ENTRIES = {metric.name: metric for metric in ASKED}


def test_seconds_are_those_of_the_entries_once_for_what_they_share() -> None:
    assert extra_seconds(FOUR_K, ()) == 0
    one = {name: extra_seconds(FOUR_K, (name,)) for name in ENTRIES}
    assert one["hd_mse"] == pytest.approx(ENTRIES["hd_mse"].seconds * MEGAPIXELS)
    assert extra_seconds(FOUR_K, ("glcm_entropy", "glcm_score")) == one["glcm_entropy"] == one["glcm_score"] > 0
    assert one["patch_niqe"] == pytest.approx(ENTRIES["patch_niqe"].seconds * MEGAPIXELS * 16 / 81)
    assert measuring_seconds(FOUR_K, 8, ("hd_mse",)) == pytest.approx(
        (MEASURE_SECONDS + ENTRIES["hd_mse"].seconds) * MEGAPIXELS / 2
    )
    cheap = one["hd_mse"] + one["jpeg_ratio"] + one["glcm_entropy"]
    assert cheap < 0.5 * MEASURE_SECONDS * MEGAPIXELS  # so that the Wan environments can ask for them


def test_operations_of_networks_are_those_that_are_counted() -> None:
    """On meta tensors: nothing is computed."""
    size = ClipSize(height=224, width=224, frames=17)
    with torch.device("meta"):
        networks = torchvision.models.video.r3d_18(weights=None), torchvision.models.alexnet(weights=None).features
        clip, picture = torch.empty(1, 3, 16, 224, 224), torch.empty(1, 3, 2176, 3840)
    found = []
    for network, given in zip(networks, (clip, picture), strict=True):
        with FlopCounterMode(display=False) as counted:
            network(given)
        found.append(counted.get_total_flops() / 1e12)
    assert network_teraflops(size, ("hd_fvd_r3d_18",)) == pytest.approx(found[0], rel=0.01)
    # A frame itself and three times shrunk and enlarged.
    assert network_teraflops(FOUR_K, ("hd_lpips",)) == pytest.approx(16 * 4 * found[1], rel=0.02)


def test_the_plan_counts_them_on_processors_and_on_the_device(params) -> None:
    plain = plan_of(params)
    params["evaluation"]["extra_measures"] = ["hd_mse", "hd_fvd_r3d_18"]
    rows = {row.name: row for row in plan_of(params).rows if row.group == "measures"}
    assert set(rows) == {"all", "networks"} and rows["networks"].count == rows["all"].count
    assert rows["networks"].teraflops > 0 and rows["networks"].seconds > 0
    (before,) = (row for row in plain.rows if row.group == "measures")
    assert rows["all"].seconds == pytest.approx(before.seconds * (1 + ENTRIES["hd_mse"].seconds / MEASURE_SECONDS))
    kept = measuring_memory(FOUR_K, ("hd_fvd_r3d_18",)) - measuring_memory(FOUR_K)
    assert kept == pytest.approx(16 * 2176 * 3840 * 3)  # frames as bytes


def test_doctor_says_what_each_lacks_and_how_to_get_it(params, tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    params["folders"] |= {"measure_weights": str(tmp_path / "none")}
    params["evaluation"] |= {"extra_measures": ["hd_mse", "hd_lpips", "hd_fvd_i3d"]}
    found = {finding.item: finding for finding in findings_of(params)}
    assert found["evaluation.extra_measures"].state == found["measure hd_mse"].state == "ok"
    assert found["measure hd_lpips"].state == found["measure hd_fvd_i3d"].state == "optional"
    assert found["measure hd_lpips"].fix == "kedro vibe fetch-weights --measures hd_lpips"
    params["folders"] |= {"env": "mine"}
    found = {finding.item: finding for finding in findings_of(params)}
    assert found["measure hd_lpips"].fix == "kedro vibe fetch-weights --measures hd_lpips --env=mine"
    (tmp_path / "none").mkdir()
    (tmp_path / "none/i3d_torchscript.pt").write_bytes(b"x")
    found = {finding.item: finding for finding in findings_of(params)}
    assert found["measure hd_fvd_i3d"].fix == "set evaluation.real_clips to a folder of them"
    params["evaluation"]["real_clips"] = str(real)
    found = {finding.item: finding for finding in findings_of(params)}
    assert "holds no clips" in found["measure hd_fvd_i3d"].found and str(real) in found["measure hd_fvd_i3d"].fix
    (real / "clip.mp4").write_bytes(b"x")
    found = {finding.item: finding for finding in findings_of(params)}
    assert found["measure hd_fvd_i3d"].state == "ok"


def test_a_wrong_name_stops_doctor_and_run_with_the_right_ones(params) -> None:
    params["evaluation"]["extra_measures"] = ["hd_mse", "sharpness"]
    said = r"evaluation\.extra_measures: 'sharpness' is not one of hd_mse"
    found = {finding.item: finding for finding in findings_of(params)}
    assert found["evaluation.extra_measures"].state == "missing"
    assert found["evaluation.extra_measures"].found.startswith("evaluation.extra_measures: 'sharpness' is not one of")
    checks = {c.item: c for c in scoring_checks(EvaluationParams(**params["evaluation"]), Folders(**params["folders"]))}
    with pytest.raises(ValueError, match=said):
        checks["evaluation.extra_measures"].look()
