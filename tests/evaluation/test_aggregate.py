"""VBench's totals against published rows and the official arithmetic."""

import math

import pytest

from vibe_pipeline.evaluation.aggregate import DIMENSIONS, QUALITY_DIMENSIONS, plain_mean, vbench_totals

# Percent, in the order of DIMENSIONS. The 16 raw scores are of the VBench paper's tables (Huang et al., CVPR 2024);
# quality, semantic and total are of its public leaderboard.
PUBLISHED = {
    "LaVie": (
        (
            91.41,
            97.47,
            98.30,
            96.38,
            54.94,
            61.90,
            49.72,
            91.82,
            33.32,
            96.80,
            86.39,
            34.09,
            52.69,
            23.56,
            25.93,
            26.41,
        ),
        (78.78, 70.31, 77.08),
    ),
    "ModelScope": (
        (
            89.87,
            95.29,
            98.28,
            95.79,
            52.06,
            58.57,
            66.39,
            82.25,
            38.98,
            92.40,
            81.72,
            33.68,
            39.26,
            23.39,
            25.37,
            25.67,
        ),
        (78.05, 66.54, 75.75),
    ),
    "VideoCrafter-1.0": (
        (
            95.10,
            98.04,
            98.93,
            95.67,
            62.67,
            65.46,
            55.00,
            78.18,
            45.66,
            91.60,
            93.32,
            58.86,
            43.75,
            24.41,
            25.54,
            26.76,
        ),
        (81.59, 72.22, 79.72),
    ),
}
HALVES = dict.fromkeys(DIMENSIONS, 0.5) | {"appearance_style": 0.2, "temporal_style": 0.25, "overall_consistency": 0.25}


def without(*names):
    return {name: score for name, score in HALVES.items() if name not in names}


@pytest.mark.parametrize("model", PUBLISHED)
@pytest.mark.parametrize("spaces", [False, True])
def test_published_rows(model, spaces):
    raw, (quality, semantic, total) = PUBLISHED[model]
    names = [name.replace("_", " ") for name in DIMENSIONS] if spaces else DIMENSIONS
    totals = vbench_totals({name: score / 100 for name, score in zip(names, raw, strict=True)})
    assert totals.missing == ()
    assert 100 * totals.quality == pytest.approx(quality, abs=0.006)
    assert 100 * totals.semantic == pytest.approx(semantic, abs=0.006)
    assert 100 * totals.total == pytest.approx(total, abs=0.006)
    assert (totals.partial_quality, totals.partial_semantic) == (totals.quality, totals.semantic)


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
    # The partial mean is over what is there: it is not pulled down as by a 0.
    zeroed = vbench_totals(HALVES | {name: 0.0})
    assert getattr(totals, f"partial_{withheld}") > getattr(zeroed, withheld)


def test_nothing_there():
    totals = vbench_totals({})
    assert totals.missing == DIMENSIONS
    assert (totals.quality, totals.semantic, totals.total, totals.partial_quality, totals.partial_semantic) == (
        None,
    ) * 5


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


def test_plain_mean():
    six = QUALITY_DIMENSIONS[:6]
    scores = {name: i / 10 for i, name in enumerate(six)}
    assert plain_mean(scores, six) == pytest.approx(0.25)
    assert plain_mean(scores, [name.replace("_", " ") for name in six]) == pytest.approx(0.25)
    assert plain_mean(scores | {six[0]: math.nan}, six) is None
    assert plain_mean(scores, (*six, "scene")) is None
    with pytest.raises(ValueError, match="at least one"):
        plain_mean(scores, ())
