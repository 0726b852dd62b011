"""Reading a clip's attributes from its pixels: right on the truth, wrong on what is wrong."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tests.conf_files import folders_below
from tests.miniature.object_mask import object_mask
from vibe_pipeline.evaluation.measure import attribute_scores, measure_arm, static_mask
from vibe_pipeline.evaluation.metrics.measures import Beside, measure_clip
from vibe_pipeline.experiment.evaluation import EvaluationParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.io.video import write_lossless
from vibe_pipeline.miniature.readout import object_saliency, read_clip, share_right
from vibe_pipeline.miniature.scene import BACKGROUNDS, SHAPES, parse_caption, sample_scene
from vibe_pipeline.miniature.world import render
from vibe_pipeline.pipelines.vbench_eval.nodes import measure

COUNT = 12
BAND = (30.0, 45.0)


def scenes(count: int = COUNT) -> list:
    rng = np.random.default_rng(4)
    return [sample_scene(rng, shape=SHAPES[i % 4]) for i in range(count)]


@pytest.mark.parametrize("size", [48, 144])
def test_the_truth_is_read_right(size: int) -> None:
    right: dict[str, list[bool]] = {}
    for scene in scenes():
        reading = read_clip(render(scene, size, size, 5))
        for name, value in reading.right(parse_caption(scene.caption)).items():
            right.setdefault(name, []).append(value)
        assert reading.travel == pytest.approx(scene.travel, abs=0.05)
    shares = {k: float(np.mean(v)) for k, v in right.items()}
    assert set(shares) == {"colours_right", "motion_right", "shape_right", "texture_right", "one_object"}
    assert min(shares.values()) >= (COUNT - 1) / COUNT, shares


@pytest.mark.parametrize("size", [48, 144])
def test_the_background_texture_is_read_from_what_the_object_leaves_free(size: int) -> None:
    rng = np.random.default_rng(5)
    read = {"ribbed": [], "woven": []}
    for i in range(24):
        scene = sample_scene(rng, texture=("ribbed", "woven")[i % 2])
        noisy = render(scene, size, size, 5) + rng.normal(0, 0.02, (5, size, size, 3))
        read[scene.texture].append(read_clip(np.clip(noisy, 0, 1).astype(np.float32)).texture)
    assert read == {"ribbed": ["ribbed"] * 12, "woven": ["woven"] * 12}


def test_what_is_wrong_is_read_wrong() -> None:
    fixed = {"shape": "square", "colour": "red", "background": "navy", "direction": "left"}
    scene = sample_scene(np.random.default_rng(4), **fixed)
    clip, truth = render(scene, 64, 64, 5), parse_caption(scene.caption)
    assert all(read_clip(clip).right(truth).values())
    assert not read_clip(clip[::-1]).right(truth)["motion_right"]
    shares = share_right([(clip, scene.caption), (clip[::-1], scene.caption)])
    assert (shares["motion_right"], shares["colours_right"]) == (0.5, 1.0)
    assert not read_clip(clip[[2] * 5]).right(truth)["motion_right"]
    assert not read_clip(np.ascontiguousarray(clip[..., ::-1])).right(truth)["colours_right"]
    other = render(replace(scene, texture="woven" if scene.texture == "ribbed" else "ribbed"), 64, 64, 5)
    assert not read_clip(other).right(truth)["texture_right"]
    empty = np.broadcast_to(np.float32(BACKGROUNDS[scene.background]), clip.shape)
    assert not any(read_clip(empty).right(truth)[k] for k in ("motion_right", "one_object", "texture_right"))
    two = np.maximum(clip, np.roll(clip, 26, axis=2))
    assert not read_clip(two).right(truth)["one_object"]
    noise = np.random.default_rng(0).random(clip.shape, np.float32)
    assert not all(read_clip(noise).right(truth).values())


@pytest.mark.parametrize("size", [64, 128])
def test_saliency_is_the_objects_mask(size: int) -> None:
    for scene in scenes(4):
        saliency, background = object_saliency(render(scene, size, size, 3))
        mask = object_mask(scene, size, size, 3) > 0.5
        both, either = ((saliency > 0.5) & mask).sum(), ((saliency > 0.5) | mask).sum()
        assert both / either > 0.7
        assert np.linalg.norm(background - BACKGROUNDS[scene.background]) < 0.1


def test_the_static_mask_leaves_out_the_objects_whole_path() -> None:
    scene = scenes(1)[0]
    static = static_mask(render(scene, 64, 64, 5))
    assert static.mask.shape == (64, 64)
    assert static.mask[(object_mask(scene, 64, 64, 5) > 0.5).any(0)].mean() < 0.02
    assert static.share > 0.3 and not static.problem


def detail_scores(clip: np.ndarray) -> dict[str, float]:
    """Measures that need no truth; those of time look at the static background."""
    return measure_clip(clip, BAND, Beside(static_mask(clip))).values


def test_noise_and_flicker_raise_their_measures_and_blur_lowers_detail() -> None:
    clip = render(scenes(1)[0], 128, 128, 5)
    clean = detail_scores(clip)
    noise = np.random.default_rng(0).normal(0, 0.03, clip.shape).astype(np.float32)
    noisy = detail_scores(np.clip(clip + noise, 0, 1))
    for name in ("flicker", "residual_noise"):
        assert noisy[name] > clean[name], name
    brighter = clip + np.float32([0.05, 0, 0, 0, 0]).reshape(-1, 1, 1, 1)
    assert detail_scores(np.clip(brighter, 0, 1))["first_frame_jump"] > clean["first_frame_jump"] + 0.01
    blurred = (clip + np.roll(clip, 3, 1) + np.roll(clip, 3, 2) + np.roll(clip, -3, 1)) / 4
    assert detail_scores(blurred)["high_frequency_share"] < clean["high_frequency_share"]


def test_attribute_scores_are_zero_or_one_and_the_colours_distance() -> None:
    scene = scenes(1)[0]
    scores = attribute_scores(render(scene, 64, 64, 5), scene.caption)
    assert scores.pop("background_colour_error") < 0.1
    assert set(scores.values()) == {1.0}


@pytest.mark.parametrize("source", ["truth", "base"])
def test_an_arms_table_has_every_score_or_a_reason(tmp_path, source: str) -> None:
    scene = scenes(1)[0]
    truth, native = render(scene, 64, 64, 5), render(scene, 32, 32, 5)
    paths = {n: str(write_lossless(tmp_path / f"{n}.mp4", c, 8)) for n, c in (("truth", truth), ("native", native))}
    row = {"arm": "a", "prompt_index": 0, "prompt": scene.caption, "seed": 0}
    clips = pd.DataFrame([row | {"path": paths["truth"], "reference_path": paths["truth"], "method": "refine"}])
    native_table = pd.DataFrame([{"prompt_index": 0, "seed": 0, "path": paths["native"]}])
    evaluation = EvaluationParams(vbench_dimensions=("dynamic_degree",), fine_band=BAND, reference_arm="a")
    generation = GenerationParams(prompts="miniature", native_source=source)
    table, spectrum = measure_arm("a", clips, native_table, evaluation, generation)
    scored = table[table["status"] == "scored"].set_index("metric")["value"]
    assert scored["shape_right"] == scored["motion_right"] == 1
    assert scored["native_psnr"] > 25
    assert scored["spectrum_distance"] == pytest.approx(0, abs=1e-6)
    paired = table.set_index("metric").loc[["psnr", "band_correlation"]]
    if source == "truth":
        assert paired.loc["band_correlation", "value"] == pytest.approx(1)
    else:
        assert set(paired["status"]) == {"skipped"}
        assert paired["value"].isna().all()
        assert paired["reason"].str.contains("native_source").all()
    assert (spectrum["power"] > 0).all()
    assert spectrum["power"].iloc[0] > 1000 * spectrum["power"].iloc[-1]  # pictures fall off steeply
    assert spectrum["cycles"].is_monotonic_increasing
    assert spectrum["cycles"].iloc[-1] < 32


@pytest.mark.parametrize("scale", [(48, 48, 5), (64, 64, 9), (16, 16, 1)])
def test_a_clip_of_another_shape_than_the_truth_has_a_reason_for_what_it_cannot_have(tmp_path, scale: tuple) -> None:
    """Another system's clips, each of its own scale: no crash, and the same clip of the truth's scale is measured."""
    scene = scenes(1)[0]
    truth = str(write_lossless(tmp_path / "truth.mp4", render(scene, 64, 64, 5), 8))
    other = str(write_lossless(tmp_path / "other.mp4", render(scene, *scale), 16))
    said = f"{scale[0]}x{scale[1]} beside 64x64"
    row = {"arm": "a", "prompt_index": 0, "prompt": scene.caption, "reference_path": truth, "method": "external"}
    clips = pd.DataFrame([row | {"seed": 0, "path": truth, "differs": np.nan}, row | {"seed": 1, "path": other}])
    clips["differs"] = clips["differs"].astype(object)
    clips.loc[1, "differs"] = said
    evaluation = EvaluationParams(vbench_dimensions=("dynamic_degree",), fine_band=BAND, reference_arm="a")
    generation = GenerationParams(prompts="miniature", native_source="truth")
    native = pd.DataFrame([{"prompt_index": 0, "seed": s, "path": truth} for s in (0, 1)])
    table, spectrum = measure_arm("a", clips, native, evaluation, generation)
    equal, unequal = (table[table["seed"] == s].set_index("metric") for s in (0, 1))
    assert equal.loc["psnr", "status"] != "skipped" and equal.loc["band_correlation", "value"] == pytest.approx(1)
    for metric in ("psnr", "band_correlation", "band_error", "band_unmendable", "spectrum_distance"):
        assert unequal.loc[metric, "status"] == "skipped" and said in unequal.loc[metric, "reason"]
    assert unequal.loc["colours_right", "status"] == "scored"
    measured = scale[2] > 1  # of one small frame there is neither flicker nor a band
    assert (unequal.loc["flicker", "status"] == "scored") == measured
    assert spectrum["cycles"].iloc[-1] < 32 and (spectrum["power"] > 0).all()


def test_what_was_measured_of_a_clip_is_measured_again_where_the_target_changes(tmp_path, monkeypatch, wan21) -> None:
    """The same file beside clips of its own scale, then of another: a remembered score would be that of the first."""
    monkeypatch.chdir(tmp_path)
    scene = scenes(1)[0]
    path = str(write_lossless(tmp_path / "a.mp4", render(scene, 64, 64, 5), 8))
    row = {"arm": "a", "prompt_index": 0, "prompt": scene.caption, "seed": 0, "path": path, "reference_path": path}
    clips = pd.DataFrame(
        [row | {"key": "k", "method": "external", "differs": "", "frames": 5, "height": 64, "width": 64}]
    )
    native = pd.DataFrame([{"prompt_index": 0, "seed": 0, "path": path, "key": "n"}])
    evaluation = EvaluationParams(vbench_dimensions=("dynamic_degree",), fine_band=BAND, reference_arm="a")
    generation, found = GenerationParams(prompts="miniature", native_source="truth"), []
    for said in ("", "64x64 beside 128x128", ""):
        table, _ = measure(
            "a", clips.assign(differs=said), native, evaluation, generation, wan21.model(), folders_below(tmp_path)
        )
        found.append(table.set_index("metric").loc["band_correlation", "status"])
    assert found == ["scored", "skipped", "scored"]
