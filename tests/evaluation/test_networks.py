"""Networks over an arm: one walk for all, kept a clip at a time, an arm's distance to real clips in the table."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision

from tests.conf_files import folders_below
from vibe_pipeline.evaluation import measure as cheap
from vibe_pipeline.evaluation import networks as room
from vibe_pipeline.evaluation.measure import measure_arm
from vibe_pipeline.evaluation.metrics.asked import asked_for, lack_of
from vibe_pipeline.evaluation.metrics.distributions import DISTRIBUTIONS, SIDE, Patches, hd_fvd
from vibe_pipeline.evaluation.metrics.frechet import frechet_distance, moments
from vibe_pipeline.evaluation.metrics.patches import PATCH_QUALITY
from vibe_pipeline.evaluation.networks import Networks
from vibe_pipeline.evaluation.statistics import summarise
from vibe_pipeline.experiment.evaluation import EvaluationParams
from vibe_pipeline.experiment.folders import Folders
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.io.video import read_frames, write_lossless

R3D, I3D = DISTRIBUTIONS
REAL = GenerationParams(prompts=Path("prompts.txt"))
HEIGHT, WIDTH = SIDE + 16, 2 * SIDE


class Brightness(torch.nn.Module):
    """Stands in for a clip network: mean and deviation of each colour, and of its changes."""

    def forward(
        self, x: torch.Tensor, rescale: bool = True, resize: bool = True, return_features: bool = False
    ) -> torch.Tensor:
        if rescale or resize or not return_features:
            raise ValueError("these pictures are of the right size and range already, and features are wanted")
        changes = x[:, :, 1:] - x[:, :, :-1]
        return torch.cat([x.mean((2, 3, 4)), x.std((2, 3, 4)), changes.std((2, 3, 4))], 1)


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """Weights and what is kept; the stand-in for I3D is TorchScript, as the real file is."""
    made = folders_below(tmp_path)
    made.measure_weights.mkdir(parents=True)
    torch.jit.script(Brightness()).save(made.measure_weights / I3D.weights[0].path)
    return made


def evaluation(*names: str, **more: object) -> EvaluationParams:
    """Parameters that ask for some measures."""
    return EvaluationParams(
        vbench_dimensions=("dynamic_degree",), fine_band=(13.0, 20.0), reference_arm="a", extra_measures=names, **more
    )


def pixels(seed: int, noise: float = 4.0, frames: int = 4, size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    level = rng.uniform(90, 160, (1, 1, 1, 3))
    clip = level + noise * rng.standard_normal((frames, *size, 3))
    clip[-1] += 40  # which frames are looked at shows
    return clip.clip(0, 255).astype(np.uint8)


@pytest.fixture
def arm(tmp_path: Path) -> Callable[..., pd.DataFrame]:
    """Clips of an arm as the pipeline hands them over."""

    def make(name: str, count: int = 2, first: int = 0, **looks: object) -> pd.DataFrame:
        rows = []
        for i in range(count):
            clip = pixels(first + i, **looks)
            path = write_lossless(tmp_path / f"{name}{i}.mp4", clip, 8)
            size = dict(zip(("frames", "height", "width"), clip.shape, strict=False))
            row = {"prompt_index": i, "seed": 0, "prompt": "waves", "path": str(path), "key": f"{name}{i}"}
            rows.append(row | {"method": "refine"} | size)
        return pd.DataFrame(rows)

    return make


@pytest.fixture
def real(tmp_path: Path) -> Path:
    folder = tmp_path / "real"
    for i in range(3):
        write_lossless(folder / f"clip{i}.mp4", pixels(50 + i), 8)
    (folder / "notes.txt").write_text("not a clip")
    return folder


def both(
    name: str, clips: pd.DataFrame, evaluation: EvaluationParams, folders: Folders, native: pd.DataFrame | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """As the node does it: the walk, then the networks' rows."""
    networks = Networks(evaluation, folders, "cpu")
    scores, _ = measure_arm(
        name, clips, clips if native is None else native, evaluation, REAL, folders.measured, networks
    )
    return scores, networks.rows(name, clips)


def test_one_walk_serves_measures_and_networks(arm, folders, real, monkeypatch) -> None:
    """Of the clips: the native clips' own walks (static mask, native agreement) are taken apart by path."""
    walked: list[Path] = []

    def counted(path: Path):
        walked.append(path)
        return read_frames(path)

    monkeypatch.setattr(cheap, "read_frames", counted)
    monkeypatch.setattr(room, "read_frames", counted)
    clips, native = arm("full"), arm("native")
    asked = evaluation("hd_mse", I3D.name, real_clips=real)
    networks = Networks(asked, folders, "cpu")
    scores, _ = measure_arm("full", clips, native, asked, REAL, folders.measured, networks)
    table = networks.rows("full", clips)
    assert [walked.count(Path(path)) for path in clips["path"]] == [1, 1]
    assert "hd_mse" in set(scores["metric"]) and table.set_index("metric").loc[I3D.name, "status"] == "scored"
    walked.clear()
    both("renamed", clips, asked, folders, native)
    assert walked == []  # neither measures nor features are made again
    more = evaluation("hd_mse", "jpeg_ratio", I3D.name, real_clips=real)
    both("full", clips, more, folders, native)
    assert walked and not any(path.parent == real for path in walked)  # real clips were seen once and for all


def test_hd_fvd_is_the_distance_of_all_patches(arm, folders, real) -> None:
    clips = arm("full", 3, frames=20)
    _, table = both("full", clips, evaluation(I3D.name, real_clips=real), folders)
    row = table.set_index("metric").loc[I3D.name]
    network = Brightness()

    def features(path: Path) -> np.ndarray:
        frames = np.stack(list(read_frames(path)))
        chosen = (
            [*frames, *[frames[-1]] * 12] if len(frames) < 16 else frames[np.linspace(0, 19, 16).round().astype(int)]
        )
        chosen = np.stack(chosen)
        cut = [chosen[:, :SIDE, left : left + SIDE] for left in (0, SIDE)]
        both = torch.from_numpy(np.stack(cut)).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
        return network(both, False, False, True).numpy()

    groups = [[features(Path(p)) for p in paths] for paths in (clips["path"], sorted(real.glob("*.mp4")))]
    expected = frechet_distance(*(moments(np.concatenate(group)) for group in groups))
    assert row["value"] == pytest.approx(expected, rel=1e-3) and expected > 0
    assert (row["prompt_index"], row["seed"], row["direction"]) == (-1, -1, "lower")
    assert "3 clips (6 patches) against 3 real clips (6 patches)" in row["reason"]
    assert "fewer patches than the network's 9 features" in row["reason"]


def test_noise_that_real_clips_hold_is_rewarded(arm, folders, real) -> None:
    """As its words say: real clips are noisy, and so is the better arm."""
    found = {}
    for noise in (0.5, 4.0):
        _, table = both("a", arm(f"n{noise}-", 3, 10, noise=noise), evaluation(I3D.name, real_clips=real), folders)
        found[noise] = table.set_index("metric").loc[I3D.name, "value"]
    assert found[4.0] < found[0.5]
    assert "rewards what the real clips hold, noise" in I3D.explanation


def test_equal_sets_are_at_no_distance_and_the_note_counts_clips() -> None:
    clips = [np.random.default_rng(i).standard_normal((4, 3)) for i in range(12)]
    figure = hd_fvd(clips, range(12), clips, 0.95, 0)
    assert figure.value == pytest.approx(0, abs=1e-6) and figure.low < figure.value < figure.high
    assert "from 12 clips (48 patches) against 12 real clips (48 patches)" in figure.note
    assert "too high by about" in figure.note and "fewer patches" not in figure.note


def test_an_arms_own_interval_and_note_reach_the_table() -> None:
    """Two arms of one figure each: mean, interval and note as said; the difference has no interval."""
    from vibe_pipeline.io.score_table import Place, score_row, score_table

    rows = [
        score_row(Place(name), R3D, value, reason="from 64 clips") | {"low": value - 5, "high": value + 7}
        for name, value in (("a", 100.0), ("b", 80.0))
    ]
    table = summarise(score_table(rows), "a", samples=20).set_index("arm")
    assert table.loc["b", ["mean", "ci_low", "ci_high", "diff", "n"]].tolist() == [80, 75, 87, -20, 0]
    assert np.isnan(table.loc["b", "diff_low"]) and table.loc["b", "reason"] == "from 64 clips"


def test_r3d_18_gives_512_features_of_normalised_patches(tmp_path) -> None:
    torch.manual_seed(0)
    network = torchvision.models.video.r3d_18(weights=None)
    file = tmp_path / R3D.weights[0].path
    torch.save(network.state_dict(), file)
    watcher = R3D.load([file], "cpu")()
    frames = pixels(0, frames=2, size=(SIDE, SIDE + 30))
    for frame in frames:
        watcher.take(frame)
    found = watcher.result()
    padded = np.concatenate([frames, frames[-1:].repeat(14, 0)])[:, :, :SIDE]  # the last frame again, up to 16
    weights = torchvision.models.video.R3D_18_Weights.KINETICS400_V1.transforms
    mean, deviation = (torch.tensor(weights().__dict__[k])[:, None, None, None] for k in ("mean", "std"))
    video = torch.from_numpy(padded).permute(3, 0, 1, 2).float() / 255
    network.fc = torch.nn.Identity()
    with torch.no_grad():
        expected = network.eval()(((video - mean) / deviation)[None])[0]
    assert found.shape == (1, 512)
    np.testing.assert_allclose(found[0], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("more", "said"),
    [({}, "set evaluation.real_clips"), ({"real_clips": Path("nowhere")}, "evaluation.real_clips, nowhere, holds no")],
)
def test_without_real_clips_it_is_skipped(arm, folders, more, said) -> None:
    _, table = both("a", arm("full", 1), evaluation(I3D.name, **more), folders)
    row = table.set_index("metric").loc[I3D.name]
    assert row["status"] == "skipped" and said in row["reason"] and np.isnan(row["value"])


def test_missing_weights_are_named_with_the_command(arm, folders, real) -> None:
    _, table = both("a", arm("full", 1), evaluation("hd_lpips", R3D.name, real_clips=real), folders)
    table = table.set_index("metric")
    assert "r3d_18-b3b3357e.pth is not at" in table.loc[R3D.name, "reason"]
    assert "alexnet-owt-7be5be79.pth and lpips_v0.1_alex.pth are not at" in table.loc["hd_lpips", "reason"]
    assert "`kedro vibe fetch-weights --measures hd_lpips`" in table.loc["hd_lpips", "reason"]
    lack = lack_of(PATCH_QUALITY, evaluation(), folders.model_copy(update={"env": "mine"}))
    assert lack is not None
    if find_spec("pyiqa"):
        assert lack.fix == "kedro vibe fetch-weights --dimensions imaging_quality --env=mine" in lack.reason


def test_a_clip_too_small_leaves_the_arm_without_a_figure(arm, folders, real) -> None:
    clips = pd.concat([arm("big", 1), arm("small", 1, size=(100, 300)).assign(prompt_index=1)], ignore_index=True)
    _, table = both("a", clips, evaluation(I3D.name, real_clips=real), folders)
    row = table.set_index("metric").loc[I3D.name]
    assert row["status"] == "failed"
    assert row["reason"] == "1 of 2 clips have none: a patch is 224x224 pixels; the frame is 100x300"


def test_a_damaged_feature_file_is_made_again(arm, folders, real) -> None:
    clips, asked = arm("full"), evaluation(I3D.name, real_clips=real)
    _, first = both("a", clips, asked, folders)
    kept = sorted((folders.measured / "features").glob("*.npy"))
    assert len(kept) == 5
    kept[0].write_bytes(kept[0].read_bytes()[:40])
    _, again = both("a", clips, asked, folders)
    pd.testing.assert_frame_equal(first, again)


def test_patches_hold_whole_tiles_only() -> None:
    seen = []
    patches = Patches(lambda p: seen.append(p) or torch.zeros(1, 2), "cpu")
    patches.take(np.zeros((SIDE + 5, 2 * SIDE + 223, 3), np.uint8))
    assert patches.result().shape == (2, 2)
    assert {tuple(p.shape) for p in seen} == {(1, 3, 16, SIDE, SIDE)}


def test_a_wrong_name_is_refused_with_the_right_ones() -> None:
    with pytest.raises(ValueError, match=r"evaluation\.extra_measures: 'hd_mes' is not one of hd_mse, glcm_entropy"):
        asked_for(("hd_mse", "hd_mes"))
