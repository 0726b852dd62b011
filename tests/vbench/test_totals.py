"""VBench's totals against the official arithmetic."""

import math

import numpy as np
import pytest

from vibe_pipeline.vbench.totals import DIMENSIONS, QUALITY_DIMENSIONS, vbench_totals

# (minimum, maximum) of the dimensions whose range is not 0 to 1, as in Vchitect/VBench, scripts/constant.py at commit
# 7975661c; the arithmetic below is that of scripts/cal_final_score.py at commit 5ebbf0b2. No published row with all 16
# raw scores beside its totals could be cited, so the totals are checked against the arithmetic alone.
RANGES = {
    "subject_consistency": (0.1462, 1.0),
    "background_consistency": (0.2615, 1.0),
    "temporal_flickering": (0.6293, 1.0),
    "motion_smoothness": (0.706, 0.9975),
    "scene": (0.0, 0.8222),
    "appearance_style": (0.0009, 0.2855),
    "temporal_style": (0.0, 0.364),
    "overall_consistency": (0.0, 0.364),
}
HALVES = dict.fromkeys(DIMENSIONS, 0.5) | {"appearance_style": 0.2, "temporal_style": 0.25, "overall_consistency": 0.25}


def without(*names):
    return {name: score for name, score in HALVES.items() if name not in names}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("spaces", [False, True])
def test_the_official_scripts_arithmetic(seed, spaces):
    rng = np.random.default_rng(seed)
    scores = dict(zip(DIMENSIONS, rng.uniform(0.2, 0.9, 16).tolist(), strict=True))
    scaled = {n: (s - RANGES.get(n, (0, 1))[0]) / np.ptp(RANGES.get(n, (0, 1))) for n, s in scores.items()}
    six = [scaled[n] for n in QUALITY_DIMENSIONS if n != "dynamic_degree"]
    quality = (sum(six) + scaled["dynamic_degree"] / 2) / 6.5
    semantic = np.mean([scaled[n] for n in DIMENSIONS if n not in QUALITY_DIMENSIONS])
    totals = vbench_totals({n.replace("_", " ") if spaces else n: s for n, s in scores.items()})
    assert totals.missing == ()
    assert totals.quality == pytest.approx(quality) and totals.semantic == pytest.approx(semantic)
    assert totals.total == pytest.approx(0.8 * quality + 0.2 * semantic)
    by_name = (totals.of("vbench_quality"), totals.of("vbench_semantic"), totals.of("vbench_total"))
    assert by_name == (totals.quality, totals.semantic, totals.total)


@pytest.mark.parametrize(
    ("scores", "quality", "semantic"),
    [
        # Every raw score at the top of its range gives 1; dynamic degree alone weighs 0.5 of 6.5.
        (
            {"motion_smoothness": 0.9975, "scene": 0.8222, "appearance_style": 0.2855}
            | dict.fromkeys(("temporal_style", "overall_consistency"), 0.364),
            1.0,
            1.0,
        ),
        (
            {"motion_smoothness": 0.9975, "dynamic_degree": 0.0, "scene": 0.0, "appearance_style": 0.2855}
            | dict.fromkeys(("temporal_style", "overall_consistency"), 0.364),
            6 / 6.5,
            8 / 9,
        ),
    ],
)
def test_official_arithmetic(scores, quality, semantic):
    totals = vbench_totals(dict.fromkeys(DIMENSIONS, 1.0) | scores)
    assert totals.quality == pytest.approx(quality) and totals.semantic == pytest.approx(semantic)
    assert totals.total == pytest.approx((4 * quality + semantic) / 5)


@pytest.mark.parametrize("gap", ["absent", math.nan, None])
@pytest.mark.parametrize(
    ("name", "given"), [("dynamic_degree", "semantic"), ("scene", "quality"), ("overall_consistency", "quality")]
)
def test_missing_stays_missing(name, given, gap):
    totals = vbench_totals(without(name) | ({} if gap == "absent" else {name.replace("_", " "): gap}))
    withheld = {"semantic": "quality", "quality": "semantic"}[given]
    assert totals.missing == (name,)
    assert totals.total is None and getattr(totals, withheld) is None and getattr(totals, given) is not None


def test_nothing_there():
    totals = vbench_totals({})
    assert totals.missing == DIMENSIONS
    assert (totals.quality, totals.semantic, totals.total) == (None,) * 3


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        (
            {"sharpness": 0.5},
            "unknown VBench dimension 'sharpness'; the 16 are: subject_consistency, .*overall_consistency",
        ),
        ({"scene": 52.7}, "scene = 52.7 is outside 0 to 1"),
        ({"color": -0.1}, "color = -0.1 is outside 0 to 1"),
        ({"temporal style": -1.1}, "outside -1 to 1"),
        ({"scene": math.inf}, "scene = inf"),
        ({"object class": 0.1, "object_class": 0.2}, "given twice"),
    ],
)
def test_wrong_scores_are_refused(scores, words):
    with pytest.raises(ValueError, match=words):
        vbench_totals(scores)


def test_cosines_may_be_negative():
    assert vbench_totals(HALVES | {"overall_consistency": -0.02}).semantic < vbench_totals(HALVES).semantic
