"""The scoring of whole arms: real-model prompts, one-frame clips, other systems' clips; each clip measured once."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from vibe_pipeline.evaluation import measure as scores
from vibe_pipeline.evaluation.measure import measure_arm
from vibe_pipeline.experiment.evaluation import EvaluationParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.io.table_cache import remembered
from vibe_pipeline.io.video import write_lossless
from vibe_pipeline.miniature.scene import sample_scene
from vibe_pipeline.miniature.world import render

TEMPORAL = {"flicker", "residual_noise", "first_frame_jump"}
EVALUATION = EvaluationParams(vbench_dimensions=("dynamic_degree",), fine_band=(13.0, 20.0), reference_arm="full")
REAL = GenerationParams(prompts=Path("prompts.txt"))


def scene(frames: int, height: int, seed: int = 0, still: float = 1.0) -> np.ndarray:
    """A coarse random picture; below `still` of the rows it moves by a cell a frame."""
    cells = np.random.default_rng(seed).uniform(0.2, 0.8, (16, 24, 3)).astype(np.float32)
    clip = np.repeat(cells[None], frames, 0)
    top = round(16 * still)
    for t in range(frames):
        clip[t, top:] = np.roll(cells, 5 * t, 1)[top:]
    return clip.repeat(height // 16, 1).repeat(height // 16, 2)


def put(folder: Path, name: str, clip: np.ndarray, **row: object) -> dict[str, object]:
    path = write_lossless(folder / f"{name}.mp4", clip, 8)
    return {"prompt_index": 0, "seed": 0, "prompt": "waves", "path": str(path), "key": name, "method": "refine"} | row


def values(table: pd.DataFrame) -> pd.Series:
    return table[table["status"] == "scored"].set_index("metric")["value"]


def reasons(table: pd.DataFrame) -> pd.Series:
    return table[table["status"] != "scored"].set_index("metric")["reason"]


def test_every_arm_is_measured_where_the_native_clip_stands_still(tmp_path: Path) -> None:
    native = pd.DataFrame([put(tmp_path, "native", scene(5, 64, still=0.25))])
    rng = np.random.default_rng(0)
    noise = 0.02 * rng.standard_normal((5, 128, 192, 1)).astype(np.float32)
    moved = np.zeros((5, 128, 1, 1), np.float32)
    moved[1::2, 48:] = 0.2  # flickers where the scene moves alone
    found = {}
    for name, change in (("clean", 0 * noise), ("noisy", noise), ("moved", np.broadcast_to(moved, (5, 128, 192, 1)))):
        clip = (scene(5, 128, still=0.25) + change).clip(0, 1)
        table, _ = measure_arm(
            name, pd.DataFrame([put(tmp_path, name, clip)]), native, EVALUATION, REAL, tmp_path / "m"
        )
        found[name] = values(table)
        assert set(found[name].index) >= TEMPORAL | {"static_share", "native_psnr"}
    assert found["clean"]["flicker"] == found["moved"]["flicker"] == 0
    assert found["noisy"]["residual_noise"] == pytest.approx(0.02, rel=0.1)
    assert found["noisy"]["flicker"] > 0.01
    assert len({f["static_share"] for f in found.values()}) == 1
    assert 0.15 < found["clean"]["static_share"] < 0.25
    assert len(list((tmp_path / "m" / "static").iterdir())) == 1


def test_with_nothing_changed_one_file_of_scores_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    native = pd.DataFrame([put(tmp_path, f"n{i}", scene(3, 64, still=0.5), prompt_index=i) for i in range(2)])
    clips = pd.DataFrame([put(tmp_path, f"c{i}", scene(3, 96, seed=i), prompt_index=i) for i in range(2)])

    def measured(rows: pd.DataFrame, name: str = "a") -> tuple[pd.DataFrame, pd.DataFrame]:
        return measure_arm(name, rows, native, EVALUATION, REAL, tmp_path / "m")

    first = measured(clips)
    with monkeypatch.context() as patch:
        patch.setattr(scores, "_remembered", None)
        for before, after in zip(first, measured(clips), strict=True):
            pd.testing.assert_frame_equal(after, before)
    # Another number or name of the same clips is another table, made of what is kept of each.
    assert set(measured(clips.head(1))[0]["prompt_index"]) == {0}
    assert set(measured(clips, "b")[0]["arm"]) == {"b"}
    with monkeypatch.context() as patch:
        patch.setattr(scores, "_measured", None)
        for damaged in (tmp_path / "m" / "arms").glob("*.scores.parquet"):
            damaged.write_bytes(b"")
        for before, after in zip(first, measured(clips), strict=True):
            pd.testing.assert_frame_equal(after, before)


def test_clips_measured_side_by_side_give_the_same_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    native = pd.DataFrame([put(tmp_path, f"n{i}", scene(3, 64, still=0.5), prompt_index=i) for i in range(3)])
    clips = pd.DataFrame([put(tmp_path, f"c{i}", scene(3, 96, seed=i), prompt_index=i) for i in range(3)])
    two = EVALUATION.model_copy(update={"workers": 2})
    alone = measure_arm("a", clips, native, EVALUATION, REAL, tmp_path / "alone")
    measure_arm("a", clips.head(1), native, two, REAL, tmp_path / "m")  # one is nothing to share
    with monkeypatch.context() as patch:
        patch.setattr(scores, "_measured", None)  # here; the others are processes of their own
        for before, after in zip(alone, measure_arm("a", clips, native, two, REAL, tmp_path / "m"), strict=True):
            pd.testing.assert_frame_equal(after, before)

    class Ended(scores.ProcessPoolExecutor):
        def map(self, *_: object, **__: object) -> None:
            raise scores.BrokenProcessPool

    monkeypatch.setattr(scores, "ProcessPoolExecutor", Ended)
    for before, after in zip(alone, measure_arm("a", clips, native, two, REAL, tmp_path / "ended"), strict=True):
        pd.testing.assert_frame_equal(after, before)
    assert "was ended from outside" in caplog.text


def test_a_scene_that_moves_everywhere_has_a_reason(tmp_path: Path) -> None:
    native = pd.DataFrame([put(tmp_path, "native", scene(5, 64, still=0))])
    table, _ = measure_arm("a", pd.DataFrame([put(tmp_path, "a", scene(5, 128, still=0))]), native, EVALUATION, REAL)
    assert set(reasons(table).index) == TEMPORAL
    assert reasons(table).str.startswith("nothing is static").all() and set(table["status"]) == {"scored", "skipped"}
    assert table.set_index("metric").loc[sorted(TEMPORAL), "value"].isna().all()


def test_another_systems_clip_of_another_length_and_size(tmp_path: Path) -> None:
    native = pd.DataFrame([put(tmp_path, "native", scene(9, 64, still=0.5))])
    clips = pd.DataFrame([put(tmp_path, "a", scene(5, 96, still=0.5), method="external")])
    table, spectrum = measure_arm("a", clips, native, EVALUATION, REAL, tmp_path / "m")
    assert reasons(table).empty and "native_psnr" not in set(table["metric"])
    assert values(table)["flicker"] == 0 and 0.4 < values(table)["static_share"] < 0.5
    assert spectrum["cycles"].iloc[-1] < 48
    own, _ = measure_arm("b", clips.assign(method="refine", key="b"), native, EVALUATION, REAL)
    assert reasons(own)["native_psnr"] == "5 frames beside 9 of the native clip"


def test_clips_of_several_sizes_have_the_commonest_ones_spectrum(tmp_path: Path) -> None:
    native = pd.DataFrame([put(tmp_path, f"n{i}", scene(3, 64), prompt_index=i) for i in range(3)])
    clips = pd.DataFrame(
        [put(tmp_path, f"c{i}", scene(3, h), prompt_index=i, method="external") for i, h in enumerate((64, 96, 96))]
    )
    table, spectrum = measure_arm("a", clips, native, EVALUATION, REAL)
    assert len(spectrum) == 48 and spectrum["cycles"].iloc[-1] == pytest.approx(47.5)
    assert table.groupby("prompt_index").size().nunique() == 1


def test_an_arms_spectrum_is_the_geometric_mean_of_its_clips(tmp_path: Path) -> None:
    native = pd.DataFrame([put(tmp_path, f"n{i}", scene(3, 64), prompt_index=i) for i in range(2)])
    rng = np.random.default_rng(0)
    noisy = (scene(3, 64) + 0.1 * rng.standard_normal((3, 64, 96, 3)).astype(np.float32)).clip(0, 1)
    clips = [
        put(tmp_path, name, clip, prompt_index=i) for i, (name, clip) in enumerate((("a", scene(3, 64)), ("b", noisy)))
    ]
    both, one, other = (
        measure_arm("arm", pd.DataFrame(rows), native, EVALUATION, REAL)[1]["power"].to_numpy()
        for rows in (clips, clips[:1], clips[1:])
    )
    assert (other / one).max() > 2
    np.testing.assert_allclose(both, np.sqrt(one * other), rtol=1e-6)


def test_each_clip_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    stock = scores.read_frames

    def counting(path: Path):
        read.append(path.name)
        return stock(path)

    monkeypatch.setattr(scores, "read_frames", counting)
    native = pd.DataFrame([put(tmp_path, f"n{i}", scene(3, 64, i), prompt_index=i) for i in range(3)])
    clips = pd.DataFrame([put(tmp_path, f"c{i}", scene(3, 128, i), prompt_index=i) for i in range(3)])
    two, memory = clips[:2], tmp_path / "m"
    first = measure_arm("a", two, native, EVALUATION, REAL, memory)
    assert read.count("c0.mp4") == read.count("c1.mp4") == 1
    read.clear()
    again = measure_arm("other", two, native, EVALUATION, REAL, memory)
    assert read == []
    pd.testing.assert_frame_equal(again[0].assign(arm="a"), first[0])
    measure_arm("a", clips, native, EVALUATION, REAL, memory)
    assert set(read) == {"c2.mp4", "n2.mp4"} and read.count("c2.mp4") == 1
    read.clear()
    wider = EVALUATION.model_copy(update={"fine_band": (10.0, 20.0)})
    measure_arm("a", two[:1], native, wider, REAL, memory)
    assert read.count("c0.mp4") == 1
    measure_arm("a", two[:1], native.assign(key=["other", "n1", "n2"]), EVALUATION, REAL, memory)
    assert read.count("c0.mp4") == 2  # beside another native clip its scores are others
    kept = next((memory / "static").iterdir())
    kept.write_bytes(b"damaged")
    measure_arm("a", clips.assign(key=["x", "y", "z"]), native, EVALUATION, REAL, memory)
    assert set(read) >= {"c1.mp4", "c2.mp4"}


@pytest.mark.parametrize("source", ["truth", "base"])
def test_one_frame_clips_of_the_miniature(tmp_path: Path, source: str) -> None:
    what = sample_scene(np.random.default_rng(4))
    truth, native = render(what, 64, 64, 1), render(what, 32, 32, 1)
    reference = write_lossless(tmp_path / "truth.mp4", truth, 8)
    row = put(tmp_path, "a", truth, prompt=what.caption, reference_path=str(reference))
    generation = GenerationParams(prompts="miniature", native_source=source)
    native_table = pd.DataFrame([put(tmp_path, "native", native)])
    table, spectrum = measure_arm("a", pd.DataFrame([row]), native_table, EVALUATION, generation, tmp_path / "m")
    lacking = table[table["metric"].isin(TEMPORAL)]
    assert set(lacking["status"]) == {"skipped"}
    assert lacking["reason"].str.match("at least [23] frames are needed; the clip has 1").all()
    there = {"native_psnr", "high_frequency_share", "spectrum_distance", "colours_right", "shape_right"}
    assert there <= set(values(table).index)
    assert len(spectrum) == 32


def test_one_frame_clips_of_a_real_model(tmp_path: Path) -> None:
    native = pd.DataFrame([put(tmp_path, "native", scene(1, 64))])
    table, _ = measure_arm("a", pd.DataFrame([put(tmp_path, "a", scene(1, 128))]), native, EVALUATION, REAL)
    assert set(reasons(table).index) == TEMPORAL and {"native_psnr", "high_frequency_share"} <= set(values(table).index)


def test_the_memory_keeps_what_it_is_given(tmp_path: Path) -> None:
    made = remembered(tmp_path, "k", lambda: {"scores": pd.DataFrame({"reason": [""], "value": [np.nan]})})
    kept = remembered(tmp_path, "k", lambda: pytest.fail("computed again"))
    pd.testing.assert_frame_equal(kept["scores"], made["scores"])
