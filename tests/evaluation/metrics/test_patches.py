"""Imaging quality on tiles of full-size frames."""

from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import scipy.io
import torch

from tests.conf_files import folders_below
from vibe_pipeline.evaluation.metrics.networks import FrameMean, spaced
from vibe_pipeline.evaluation.metrics.patches import (
    PATCH_NETWORKS,
    PATCH_QUALITY,
    load_musiq,
    load_niqe,
    tile_mean,
    tiles,
)
from vibe_pipeline.evaluation.networks import Networks
from vibe_pipeline.experiment.evaluation import EvaluationParams
from vibe_pipeline.vbench.run import Scoring
from vibe_pipeline.vbench.score import score_vbench

needs_vbench = pytest.mark.skipif(find_spec("vbench") is None, reason="vbench is not installed")
needs_pyiqa = pytest.mark.skipif(find_spec("pyiqa") is None, reason="pyiqa is not installed")
MUSIQ_KONIQ, NIQE = (entry.weights[0].path for entry in PATCH_NETWORKS)


def scored(weights: Path, clips: pd.DataFrame, memory: Path, *names: str) -> pd.DataFrame:
    """An arm's rows with all weights in one folder, its clips walked over by nobody else."""
    asked = EvaluationParams(
        vbench_dimensions=("dynamic_degree",), fine_band=(13.0, 20.0), reference_arm="full", extra_measures=names
    )
    places = {"vbench_weights": weights, "measure_weights": weights, "measured": memory}
    networks = Networks(asked, folders_below(memory).model_copy(update=places), "cpu")
    for clip in clips.itertuples(index=False):
        looks = networks.looks(clip)
        looks.finish()
        networks.took(clip, looks)
    return networks.rows("full", clips)


@pytest.mark.parametrize(
    ("size", "count", "tile"),
    [
        ((64, 64), 1, (64, 64)),
        ((512, 513), 2, (512, 512)),
        ((1088, 1920), 12, (512, 512)),
        ((300, 1024), 2, (300, 512)),
    ],
)
def test_tiles_cover_the_frame_unshrunk(size, count, tile):
    frame = np.arange(size[0] * size[1], dtype=np.int64).reshape(*size, 1).repeat(3, -1)
    cut = tiles(frame)
    assert len(cut) == count and {part.shape[:2] for part in cut} == {tile}
    assert len(np.unique(np.concatenate([part[..., 0].ravel() for part in cut]))) == frame[..., 0].size


def test_detail_counts_at_full_resolution():
    """Stripes one pixel wide vanish when a frame is shrunk; a score of contrast must see them in tiles."""
    stripes = np.zeros((600, 1100, 3), np.uint8)
    stripes[:, ::2] = 255
    seen = []

    def contrast(images):
        seen.append(tuple(images.shape))
        return images.std((1, 2, 3)) * 2

    assert tile_mean(stripes, contrast) == pytest.approx(1.0, abs=0.01)
    assert seen == [(6, 3, 512, 512)]
    mean = FrameMean(lambda frame: tile_mean(frame, contrast))
    for frame in (np.zeros_like(stripes), stripes):
        mean.take(frame)
    assert mean.result() == pytest.approx(0.5, abs=0.01)
    with pytest.raises(ValueError, match="no frames"):
        FrameMean(lambda frame: 0.0).result()


def test_a_tile_without_a_score_is_left_out_and_a_frame_without_any_has_a_reason():
    frame = np.zeros((512, 1024, 3), np.uint8)
    assert tile_mean(frame, lambda images: torch.tensor([torch.nan, 4.0])) == 4
    with pytest.raises(ValueError, match="none of the 2 tiles"):
        tile_mean(frame, lambda images: torch.full((2,), torch.nan))


def test_frames_are_evenly_spaced():
    chosen = spaced(40, 16)
    assert len(chosen) == 16 and chosen[0] == 0 and chosen[-1] == 39 and set(np.diff(chosen)) <= {2, 3}
    assert spaced(5, 16) == spaced(5, None) == [0, 1, 2, 3, 4]


@needs_vbench
@pytest.mark.filterwarnings("ignore")
def test_a_frame_of_one_tile_gets_vbenchs_own_score(moving_clips, weights, standins, tmp_path, monkeypatch):
    from pyiqa.archs.musiq_arch import MUSIQ

    clips = moving_clips.iloc[[0, 2]].assign(key=["a", "b"])
    with standins.shallow():
        theirs = score_vbench(clips.drop(columns="key"), ["imaging_quality"], Scoring(weights, tmp_path))
    monkeypatch.setattr(MUSIQ, "__init__", standins.with_sizes(MUSIQ.__init__, num_layers=1))
    ours = scored(weights, clips, tmp_path)
    np.testing.assert_allclose(ours["value"], theirs["value"], atol=1e-4)
    assert list(ours["seen"]) == ["128x128", "128x128"] and set(ours["metric"]) == {PATCH_QUALITY.name}
    monkeypatch.setattr(MUSIQ, "__init__", lambda *a, **k: pytest.fail("it is kept: the model is not even built"))
    np.testing.assert_array_equal(scored(weights, clips, tmp_path)["value"], ours["value"])


@needs_vbench
@pytest.mark.filterwarnings("ignore")
def test_musiq_of_papers_is_the_same_network_on_its_own_scale(weights, standins, monkeypatch):
    from pyiqa.archs.musiq_arch import MUSIQ

    monkeypatch.setattr(MUSIQ, "__init__", standins.with_sizes(MUSIQ.__init__, num_layers=1))
    file = weights / PATCH_QUALITY.weights[0].path
    frame = np.random.default_rng(0).integers(0, 256, (96, 700, 3)).astype(np.uint8)
    values = []
    for load in (load_musiq, PATCH_QUALITY.load):
        watcher = load([file], "cpu")()
        watcher.take(frame)
        values.append(float(watcher.result()))
    assert values[0] == pytest.approx(100 * values[1])


@pytest.fixture
def niqe_file(tmp_path: Path) -> Path:
    """A stand-in in the layout of pyiqa's file: mean and covariance of 36 features."""
    factor = np.random.default_rng(0).standard_normal((36, 36))
    path = tmp_path / NIQE
    scipy.io.savemat(path, {"mu_prisparam": np.ones((1, 36)), "cov_prisparam": factor @ factor.T})
    return path


def niqe_of(frame: np.ndarray, file: Path) -> float:
    watcher = load_niqe([file], "cpu")()
    watcher.take(frame)
    return float(watcher.result())


def photograph(height: int, width: int, noise: float = 6.0) -> np.ndarray:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    picture = 120 + 50 * np.sin(y / 9) * np.cos(x / 13) + noise * rng.standard_normal((height, width))
    return np.repeat(picture.clip(0, 255).astype(np.uint8)[..., None], 3, -1)


@needs_pyiqa
@pytest.mark.filterwarnings("ignore")
def test_niqe_of_tiles_is_the_mean_of_pyiqas_own(niqe_file):
    from pyiqa.archs.niqe_arch import NIQE as Theirs

    frame = photograph(200, 700)
    theirs = Theirs(pretrained_model_path=str(niqe_file))
    each = [float(theirs(torch.from_numpy(part.copy()).permute(2, 0, 1)[None] / 255)) for part in tiles(frame)]
    assert len(each) == 2 and niqe_of(frame, niqe_file) == pytest.approx(np.mean(each), rel=1e-6)


@needs_pyiqa
@pytest.mark.filterwarnings("ignore")
def test_niqe_leaves_flat_tiles_out_and_refuses_small_ones(niqe_file):
    one = photograph(512, 512)
    beside_flat = np.concatenate([one, np.full_like(one, 90)], axis=1)
    assert niqe_of(beside_flat, niqe_file) == pytest.approx(niqe_of(one, niqe_file), rel=1e-6)
    with pytest.raises(ValueError, match="flat"):
        niqe_of(np.full_like(one, 90), niqe_file)
    with pytest.raises(ValueError, match="192x192 pixels at least; these are 128x512"):
        niqe_of(photograph(128, 600), niqe_file)


@needs_pyiqa
@pytest.mark.filterwarnings("ignore")
def test_niqe_rewards_noise_that_is_as_rough_as_what_it_was_fitted_to(tmp_path):
    """Fitted to noisy pictures, as a camera's are, it prefers a smooth picture with noise to the picture itself."""
    from pyiqa.archs.niqe_arch import NIQE as Theirs

    factor = np.random.default_rng(0).standard_normal((36, 36))
    file = tmp_path / NIQE
    scipy.io.savemat(file, {"mu_prisparam": np.zeros((1, 36)), "cov_prisparam": np.eye(36)})
    kept = []
    with mock.patch("pyiqa.archs.niqe_arch.nanmean", lambda v, **k: kept.append(v.mean(1)) or v.mean(1)):
        Theirs(pretrained_model_path=str(file))(torch.from_numpy(photograph(512, 512, 8)).permute(2, 0, 1)[None] / 255)
    scipy.io.savemat(file, {"mu_prisparam": kept[0].numpy(), "cov_prisparam": 0.01 * factor @ factor.T})
    assert niqe_of(photograph(512, 512, 8), file) < niqe_of(photograph(512, 512, 0.6), file)


def test_without_weights_each_is_skipped_with_file_and_command(tmp_path):
    table = scored(tmp_path, pd.DataFrame(), tmp_path, "patch_niqe", "patch_musiq").set_index("metric")
    assert set(table["status"]) == {"skipped"} and table["value"].isna().all() and set(table["prompt_index"]) == {-1}
    if find_spec("pyiqa"):
        said = table.loc["patch_imaging_quality", "reason"]
        assert "kedro vibe fetch-weights --dimensions imaging_quality" in said and "pyiqa_model" in said
        for name, file in (("patch_niqe", NIQE), ("patch_musiq", MUSIQ_KONIQ)):
            said = table.loc[name, "reason"]
            assert file in said and str(tmp_path) in said and f"kedro vibe fetch-weights --measures {name}" in said
