"""The linear filter of the training stills: which of them, cut how, and when it is fitted again."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from vibe_pipeline.experiment.data import DataParams
from vibe_pipeline.images import stills_filter
from vibe_pipeline.images.account import held_out_rows
from vibe_pipeline.images.buckets import Bucket
from vibe_pipeline.images.patches import Patch, patch_of
from vibe_pipeline.images.stills_filter import filter_of_stills, read_filter
from vibe_pipeline.miniature.scene import sample_scenes
from vibe_pipeline.miniature.world import render

COUNT = 24
CLIPS = (24, 24), (72, 72)
SQUARE = Bucket(high=(72, 72), low=(24, 24), native=(24, 24))


@pytest.fixture
def usable(tmp_path: Path) -> pd.DataFrame:
    rows = []
    for i, scene in enumerate(sample_scenes(np.random.default_rng(0), COUNT, held_out=False)):
        path = tmp_path / f"{i}.png"
        Image.fromarray(np.rint(render(scene, 72, 72, 1)[0] * 255).astype(np.uint8)).save(path)
        rows.append({"path": str(path), "sha256": f"sha{i}", "height": 72, "width": 72})
    return pd.DataFrame(rows)


def data(tmp_path: Path, **changes: Any) -> DataParams:
    size = {"height": 72, "width": 72}
    return DataParams(**({"path": tmp_path, "low": size, "high": size, "held_out": 4, "camera_blur": 0.52} | changes))


@pytest.mark.parametrize(
    ("native", "target", "stills", "patch"),
    [
        ((48, 48), (144, 144), [(144, 144)], Patch((24, 24), (72, 72))),
        ((704, 1280), (2176, 3840), [(1536, 2752), (2752, 1536)], Patch((22, 24), (68, 72))),
        ((480, 832), (1088, 1920), [(1088, 1920)], Patch((15, 13), (34, 30))),
        ((48, 48), (144, 144), [(144, 144), (40, 300)], Patch((13, 24), (39, 72))),
    ],
)
def test_patches_are_whole_at_both_sizes(native: Any, target: Any, stills: Any, patch: Patch) -> None:
    assert patch_of(native, target, stills) == patch


def test_stills_smaller_than_a_patch_are_refused() -> None:
    with pytest.raises(ValueError, match=r"at least 25 pixels wide, as an enlargement of 25/8 takes; .* makes them 24"):
        patch_of((48, 48), (150, 150), [(30, 24)])


def test_what_is_fitted_enlarges_better_than_plain_interpolation(usable: pd.DataFrame, tmp_path: Path) -> None:
    made = filter_of_stills(usable, [SQUARE], CLIPS, data(tmp_path), tmp_path / "filters")
    assert made.stills == COUNT - 4
    fitted = read_filter(made, *CLIPS)
    scenes = sample_scenes(np.random.default_rng(0), 8, held_out=True)
    small, large = (np.stack([render(s, side, side, 1)[0] for s in scenes]) for side in (24, 72))
    plain = np.square(np.kron(small, np.ones((1, 3, 3, 1))) - large).mean()
    assert np.square(fitted(small) - large).mean() < 0.6 * plain


def test_held_out_stills_are_never_read(usable: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    real = stills_filter.load_rgb
    monkeypatch.setattr(stills_filter, "load_rgb", lambda path: (read.append(path.stem), real(path))[1])
    params = data(tmp_path)
    filter_of_stills(usable, [SQUARE], CLIPS, params, tmp_path / "filters")
    assert {int(name) for name in read} == set(range(COUNT)) - held_out_rows(COUNT, params)


def test_it_is_fitted_once_and_again_where_its_content_changes(
    usable: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, params = tmp_path / "filters", data(tmp_path)
    first = filter_of_stills(usable, [SQUARE], CLIPS, params, folder)
    with monkeypatch.context() as patched:
        patched.setattr(stills_filter, "load_rgb", lambda path: pytest.fail("a still was read"))
        assert filter_of_stills(usable, [SQUARE], CLIPS, params, folder) == first
        # The same enlargement of larger clips needs no other fit.
        assert filter_of_stills(usable, [SQUARE], ((48, 48), (144, 144)), params, folder) == first
    others = [
        filter_of_stills(usable, [SQUARE], ((24, 24), (48, 48)), params, folder),
        filter_of_stills(usable, [SQUARE], CLIPS, data(tmp_path, camera_blur=0.0), folder),
        filter_of_stills(usable, [SQUARE], CLIPS, data(tmp_path, held_out=5), folder),
        filter_of_stills(usable, [replace(SQUARE, high=(36, 72))], CLIPS, params, folder),
        filter_of_stills(usable.assign(sha256=usable["sha256"] + "b"), [SQUARE], CLIPS, params, folder),
    ]
    assert len({first.key, *(made.key for made in others)}) == 1 + len(others)


def test_stills_are_cut_to_the_bucket_of_their_proportions(usable: pd.DataFrame, tmp_path: Path) -> None:
    """A wide still among square ones keeps its width; the patches of both go into one filter."""
    wide = np.random.default_rng(0).integers(0, 256, (36, 144, 3), np.uint8)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    row = {"path": str(tmp_path / "wide.png"), "sha256": "wide", "height": 36, "width": 144}
    both = pd.concat([usable, pd.DataFrame([row])], ignore_index=True)
    buckets = [SQUARE, Bucket(high=(36, 144), low=(12, 48), native=(12, 48))]
    made = filter_of_stills(both, buckets, CLIPS, data(tmp_path, held_out=1), tmp_path / "filters")
    assert made.stills == COUNT
    assert read_filter(made, *CLIPS).gains.shape == (72, 72)


def test_many_stills_are_thinned_out_evenly(
    usable: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stills_filter, "MOST_STILLS", 5)
    assert filter_of_stills(usable, [SQUARE], CLIPS, data(tmp_path), tmp_path / "filters").stills == 5
