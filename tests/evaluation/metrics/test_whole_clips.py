"""FVD and IS of whole clips: against their formulas, on stand-ins that take what the real networks take."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.linalg
import torch
from torch.nn.functional import interpolate

from tests.conf_files import folders_below
from vibe_pipeline.evaluation.metrics.frechet import FEWEST_PROMPTS, moments, spread
from vibe_pipeline.evaluation.metrics.whole_clips import WHOLE_CLIPS, WholeClip, inception_figure, inception_score
from vibe_pipeline.evaluation.networks import Networks
from vibe_pipeline.experiment.evaluation import EvaluationParams
from vibe_pipeline.experiment.folders import Folders
from vibe_pipeline.experiment.published import load_published
from vibe_pipeline.io.clip_files import real_clip_files
from vibe_pipeline.io.video import write_lossless
from vibe_pipeline.planning.measure_costs import network_teraflops
from vibe_pipeline.reporting.published import columns_of

FVD, IS = WHOLE_CLIPS


class Features(torch.nn.Module):
    """Stands in for I3D's file: bytes of 256 pixels, which it is asked to scale and resize itself."""

    def forward(
        self, x: torch.Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False
    ) -> torch.Tensor:
        if not (rescale and resize and return_features) or x.dtype != torch.uint8 or x.shape[1:] != (3, 16, 256, 256):
            raise ValueError("bytes [B, 3, 16, 256, 256], to be scaled and resized, and features are wanted")
        x = x.float() / 255
        return torch.cat([x.mean((2, 3, 4)), x.std((2, 3, 4))], 1)


class Chances(torch.nn.Module):
    """Stands in for C3D's file: bytes alone, and probabilities."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype != torch.uint8:
            raise ValueError("bytes are wanted")
        return torch.softmax(x.float().mean((2, 3, 4)) / 10, 1)


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    made = folders_below(tmp_path)
    made.measure_weights.mkdir(parents=True)
    torch.jit.script(Features()).save(made.measure_weights / FVD.weights[0].path)
    torch.jit.script(Chances()).save(made.measure_weights / IS.weights[0].path)
    return made


def clip(seed: int, frames: int = 18) -> np.ndarray:
    rng = np.random.default_rng(seed)
    noisy = rng.uniform(60, 190, (1, 1, 1, 3)) + rng.uniform(3, 20) * rng.standard_normal((frames, 48, 64, 3))
    return noisy.clip(0, 255).astype(np.uint8)


def ucf101(folder: Path, groups: tuple[int, ...] = (1, 7, 8, 25)) -> Path:
    """As it is unpacked, but for the codec."""
    for n, name in enumerate(("Archery", "YoYo")):
        for group in groups:
            write_lossless(folder / "made.mp4", clip(100 + 10 * n + group), 25)
            (folder / name).mkdir(exist_ok=True)
            (folder / "made.mp4").rename(folder / name / f"v_{name}_g{group:02d}_c01.avi")
    return folder


def scored(folders: Folders, names: tuple[str, ...], count: int, real: Path | None) -> pd.DataFrame:
    rows = []
    for i in range(count):
        path, pixels = folders.measured.parent / f"clip{i}.mp4", clip(i)
        write_lossless(path, pixels, 8)
        row = {"prompt_index": i, "seed": 0, "path": str(path), "key": f"k{i}", "method": "refine"}
        rows.append(row | dict(zip(("frames", "height", "width"), pixels.shape, strict=False)))
    asked = EvaluationParams(
        vbench_dimensions=("dynamic_degree",), fine_band=(13.0, 20.0), reference_arm="a", extra_measures=names,
        real_clips=real,
    )  # fmt: skip
    networks, clips = Networks(asked, folders, "cpu"), pd.DataFrame(rows)
    for one in clips.itertuples():
        networks.looks(one).finish()
    return networks.rows("full", clips).set_index("metric")


def features(pixels: np.ndarray) -> np.ndarray:
    """Of 16 frames: the middle square at 256 pixels, as bytes."""
    square = torch.from_numpy(pixels[:, :, 8:56]).permute(0, 3, 1, 2).float()
    small = interpolate(square, (256, 256), mode="bilinear", antialias=True).round().clamp(0, 255) / 255
    return torch.cat([small.mean((0, 2, 3)), small.transpose(0, 1).flatten(1).std(1)]).numpy()


def test_fvd_is_the_formula_by_scipys_root_on_ucf101s_training_part(folders, tmp_path) -> None:
    real = ucf101(tmp_path / "UCF-101")
    row = scored(folders, (FVD.name,), 5, real).loc[FVD.name]
    assert row["status"] == "scored" and "from 5 clips against 4 real clips" in row["reason"]
    assert "fewer clips than the network's 6 features" in row["reason"]
    mine = np.stack([features(clip(i)[:16]) for i in range(5)])  # the first frames of what is generated
    theirs = np.stack([features(clip(100 + 10 * n + g)[:16]) for n in range(2) for g in (8, 25)])
    apart, s1, s2 = mine.mean(0) - theirs.mean(0), np.cov(mine.T), np.cov(theirs.T)
    root = scipy.linalg.sqrtm(s1 @ s2).real
    expected = apart @ apart + np.trace(s1 + s2 - 2 * root)
    assert row["value"] == pytest.approx(expected, rel=2e-2) and expected > 0  # real clips begin a frame or two later


def test_the_inception_score_is_its_formula(folders) -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(101, 0.1), 40)
    overall = p.mean(0)
    expected = np.exp(np.mean([sum(a * np.log(a / b) for a, b in zip(one, overall, strict=True) if a) for one in p]))
    assert inception_score(p) == pytest.approx(expected)
    assert inception_score(np.eye(101)) == pytest.approx(101)  # sure of every class once, zeros among them
    assert inception_score(np.full((7, 101), 1 / 101)) == pytest.approx(1)
    assert inception_score(np.eye(101), np.arange(101) < 5) == pytest.approx(5)  # classes that are not drawn
    times = rng.integers(0, 4, 40)
    assert inception_score(p, times) == pytest.approx(inception_score(np.repeat(p, times, axis=0)))
    table = scored(folders, (IS.name,), 9, None)
    row, means = table.loc[IS.name], [interpolated_means(clip(i)[:16]) for i in range(9)]
    chances = torch.softmax(torch.tensor(np.stack(means)) / 10, 1).numpy()
    assert row["value"] == pytest.approx(inception_score(chances), rel=1e-3) and row["low"] < row["value"] < row["high"]
    assert row["direction"] == "higher" and "from 9 clips together; too few for the published 10 parts" in row["reason"]


def interpolated_means(pixels: np.ndarray) -> np.ndarray:
    return 255 * features(pixels)[:3]


def test_many_clips_are_scored_in_ten_parts_in_the_published_order() -> None:
    p = np.random.default_rng(1).dirichlet(np.full(101, 0.1), 1017)
    shuffled = p.copy()
    np.random.RandomState(42).shuffle(shuffled)
    figure = inception_figure([one[None] for one in p], range(1017), [], 0.95, 0)
    parts = [shuffled[1017 * i // 10 : 1017 * (i + 1) // 10] for i in range(10)]
    assert figure.value == pytest.approx(np.mean([inception_score(part) for part in parts]))
    assert "from 1017 clips in 10 parts, whose scores deviate by" in figure.note and figure.low < figure.high
    few = inception_figure([one[None] for one in p[:4]], range(4), [], 0.95, 0)
    assert FEWEST_PROMPTS > 4 and np.isnan(few.low)


def test_resamples_of_single_rows_are_those_of_sums() -> None:
    """Made one by one where a clip has one row: the same as from sums, which two rows a clip would take."""
    rows = np.random.default_rng(2).standard_normal((24, 3))
    real = moments(np.random.default_rng(3).standard_normal((30, 3)))
    single = spread([row[None] for row in rows], [i // 2 for i in range(24)], real, seed=1)
    double = spread(list(rows.reshape(12, 2, 3)), range(12), real, seed=1)
    np.testing.assert_allclose(single.resamples, double.resamples)


def test_real_clips_start_where_their_content_says_and_generated_ones_at_the_first_frame() -> None:
    assert FVD.wanted(40) == list(range(16)) and FVD.wanted(9) == list(range(9))
    starts = {FVD.wanted(40, f"clip {i}")[0] for i in range(200)}
    assert starts == set(range(25)) and FVD.wanted(40, "x") == FVD.wanted(40, "x")
    assert FVD.wanted(40, "x") == list(range(FVD.wanted(40, "x")[0], FVD.wanted(40, "x")[0] + 16))


def test_short_clips_and_clips_in_strange_folders_are_refused(folders, tmp_path) -> None:
    watcher = WholeClip(lambda x: x, "cpu")
    watcher.take(clip(0)[0])
    with pytest.raises(ValueError, match="16 frames in a row are needed; the clip has 1"):
        watcher.result()
    folder = tmp_path / "UCF-101"
    for place in ("Archery/v_Archery_g08_c01.avi", "Archery/v_Archery_g03_c01.avi"):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_bytes(b"")
    assert [path.name for path in real_clip_files(folder)] == ["v_Archery_g08_c01.avi"]
    (folder / "Archery/v_YoYo_g08_c01.avi").write_bytes(b"")
    with pytest.raises(ValueError, match=r"v_YoYo_g08_c01\.avi does not lie as in UCF-101, Archery/v_Archery_g08"):
        real_clip_files(folder)
    row = scored(folders, (FVD.name,), 1, folder).loc[FVD.name]
    assert row["status"] == "skipped" and "does not lie as in UCF-101" in row["reason"]


def test_missing_files_are_named_with_their_command(tmp_path) -> None:
    bare = folders_below(tmp_path)
    bare.measured.mkdir(parents=True)
    found = scored(bare, (FVD.name, IS.name), 1, ucf101(tmp_path / "UCF-101", (8,)))
    assert "i3d_torchscript.pt is not at" in found.loc[FVD.name, "reason"]
    assert "`kedro vibe fetch-weights --measures is_c3d`" in found.loc[IS.name, "reason"]


def test_the_plan_counts_what_the_networks_see() -> None:
    from vibe_pipeline.experiment.model import ClipSize

    sizes = [ClipSize(height=h, width=w, frames=81) for h, w in ((704, 1280), (2176, 3840))]
    assert [network_teraflops(size, ("fvd_i3d",)) for size in sizes] == pytest.approx([0.054, 0.054])
    assert network_teraflops(sizes[0], ("is_c3d",)) == pytest.approx(0.077)


def test_published_figures_can_be_set_beside_as_the_page_says(tmp_path) -> None:
    page = (Path(__file__).parents[3] / "docs/evaluation.md").read_text()
    file = tmp_path / "published.yml"
    file.write_text(page.split("`published.yml`:\n\n```yaml\n")[1].split("```")[0])
    content = load_published(file)
    assert [column.metric for column in columns_of(content["tables"][0], content["columns"])] == [FVD.name] * 2 + [
        IS.name
    ]
    assert content["tables"][0]["rows"][0]["values"] == {"fvd_10k": 66.32, "fvd_2k": 92.0, "inception": 87.68}
