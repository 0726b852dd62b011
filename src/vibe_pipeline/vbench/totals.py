"""VBench's three totals, with missing dimensions kept missing.

The constants are those of the official leaderboard script (Vchitect/VBench, scripts/constant.py and
scripts/cal_final_score.py); the installed package does not ship them. That script counts a dimension
that is not there as 0; here it leaves every total that needs it undefined.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

QUALITY_DIMENSIONS = (
    "subject_consistency",
    "background_consistency",
    "temporal_flickering",
    "motion_smoothness",
    "aesthetic_quality",
    "imaging_quality",
    "dynamic_degree",
)
SEMANTIC_DIMENSIONS = (
    "object_class",
    "multiple_objects",
    "human_action",
    "color",
    "spatial_relationship",
    "scene",
    "appearance_style",
    "temporal_style",
    "overall_consistency",
)
DIMENSIONS = QUALITY_DIMENSIONS + SEMANTIC_DIMENSIONS
NORMALISATION: Mapping[str, tuple[float, float]] = MappingProxyType(
    dict.fromkeys(DIMENSIONS, (0.0, 1.0))
    | {
        "subject_consistency": (0.1462, 1.0),
        "background_consistency": (0.2615, 1.0),
        "temporal_flickering": (0.6293, 1.0),
        "motion_smoothness": (0.706, 0.9975),
        "scene": (0.0, 0.8222),
        "appearance_style": (0.0009, 0.2855),
        "temporal_style": (0.0, 0.364),
        "overall_consistency": (0.0, 0.364),
    }
)
WEIGHTS: Mapping[str, float] = MappingProxyType(dict.fromkeys(DIMENSIONS, 1.0) | {"dynamic_degree": 0.5})
QUALITY_WEIGHT, SEMANTIC_WEIGHT = 4.0, 1.0
# These three are cosines between an image and a text feature, so they can fall below 0.
COSINES = frozenset({"appearance_style", "temporal_style", "overall_consistency"})


@dataclass(frozen=True)
class VBenchTotals:
    """VBench's totals, as fractions (the leaderboard prints them times 100).

    Attributes:
        quality: Weighted mean of the 7 normalised quality dimensions; None if one of them is missing.
        semantic: Mean of the 9 normalised semantic dimensions; None if one of them is missing.
        total: (4 quality + semantic) / 5; None if either is.
        missing: The dimensions without a score, in the official order.
        partial_quality: The same mean over the quality dimensions that are there. Equal to `quality` when
            none is missing, otherwise comparable only with the same set of dimensions; None if all are missing.
        partial_semantic: Likewise for the semantic dimensions.
    """

    quality: float | None
    semantic: float | None
    total: float | None
    missing: tuple[str, ...]
    partial_quality: float | None
    partial_semantic: float | None


def vbench_totals(scores: Mapping[str, float]) -> VBenchTotals:
    """Aggregate raw VBench scores as the leaderboard does, without counting a missing one as 0.

    Args:
        scores: Raw score per dimension, a fraction; names with spaces or underscores. None and NaN mean missing.

    Raises:
        ValueError: A name is not one of the 16 dimensions, is given twice, or its score is out of range.

    Source: cal_final_score.py of Vchitect/VBench.
    """
    known = _checked(scores)
    missing = tuple(name for name in DIMENSIONS if name not in known)
    partial_quality = _weighted_mean(known, QUALITY_DIMENSIONS)
    partial_semantic = _weighted_mean(known, SEMANTIC_DIMENSIONS)
    quality = None if set(missing) & set(QUALITY_DIMENSIONS) else partial_quality
    semantic = None if set(missing) & set(SEMANTIC_DIMENSIONS) else partial_semantic
    total = None
    if quality is not None and semantic is not None:
        total = (QUALITY_WEIGHT * quality + SEMANTIC_WEIGHT * semantic) / (QUALITY_WEIGHT + SEMANTIC_WEIGHT)
    return VBenchTotals(quality, semantic, total, missing, partial_quality, partial_semantic)


def plain_mean(scores: Mapping[str, float], dimensions: Iterable[str]) -> float | None:
    """Unweighted mean of raw scores, as the paper's "overall" column appears to be; None if one is missing.

    Raises:
        ValueError: As :func:`vbench_totals`, or `dimensions` is empty.
    """
    wanted = [canonical_name(name) for name in dimensions]
    if not wanted:
        raise ValueError("no dimensions to average: name at least one")
    known = _checked(scores)
    if any(name not in known for name in wanted):
        return None
    return math.fsum(known[name] for name in wanted) / len(wanted)


def canonical_name(name: str) -> str:
    """The name with underscores.

    Raises:
        ValueError: It is not one of the 16 dimensions; the message lists them.
    """
    canonical = "_".join(name.strip().lower().split())
    if canonical not in DIMENSIONS:
        raise ValueError(f"unknown VBench dimension {name!r}; the 16 are: {', '.join(DIMENSIONS)}")
    return canonical


def _checked(scores: Mapping[str, float]) -> dict[str, float]:
    """Canonical name to score, of those that are there and in range."""
    known: dict[str, float] = {}
    seen: set[str] = set()
    for raw_name, value in scores.items():
        name = canonical_name(raw_name)
        if name in seen:
            raise ValueError(f"dimension {name!r} is given twice, with a space and with an underscore")
        seen.add(name)
        if value is None or math.isnan(value):
            continue
        low = -1.0 if name in COSINES else 0.0
        if not low <= value <= 1.0:
            raise ValueError(f"{name} = {value} is outside {low:g} to 1; scores are fractions, not percent")
        known[name] = float(value)
    return known


def _weighted_mean(known: Mapping[str, float], dimensions: Iterable[str]) -> float | None:
    """Weighted mean of the normalised scores of those dimensions that are known; None if none is."""
    present = [name for name in dimensions if name in known]
    if not present:
        return None
    normalised = [(known[n] - NORMALISATION[n][0]) / (NORMALISATION[n][1] - NORMALISATION[n][0]) for n in present]
    weights = [WEIGHTS[n] for n in present]
    return math.fsum(w * x for w, x in zip(weights, normalised, strict=True)) / math.fsum(weights)
