"""VBench's three totals, with missing dimensions kept missing.

The constants are those of the official leaderboard script (Vchitect/VBench, scripts/constant.py and
scripts/cal_final_score.py); the installed package does not ship them. That script counts a dimension
that is not there as 0; here it leaves every total that needs it undefined.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vibe_pipeline.vbench.dimensions import REGISTRY, canonical_name

DIMENSIONS = tuple(REGISTRY)
QUALITY_DIMENSIONS = tuple(name for name, entry in REGISTRY.items() if entry.group == "quality")
SEMANTIC_DIMENSIONS = tuple(name for name, entry in REGISTRY.items() if entry.group == "semantic")
PARTS: Mapping[str, tuple[str, ...]] = {
    "vbench_quality": QUALITY_DIMENSIONS,
    "vbench_semantic": SEMANTIC_DIMENSIONS,
    "vbench_total": DIMENSIONS,
}
"""What each total is made of."""
QUALITY_WEIGHT, SEMANTIC_WEIGHT = 4.0, 1.0


@dataclass(frozen=True)
class VBenchTotals:
    """VBench's totals, as fractions (the leaderboard prints them times 100).

    Attributes:
        quality: Weighted mean of the 7 normalised quality dimensions; None if one of them is missing.
        semantic: Mean of the 9 normalised semantic dimensions; None if one of them is missing.
        total: (4 quality + semantic) / 5; None if either is.
        missing: The dimensions without a score, in the official order.
    """

    quality: float | None
    semantic: float | None
    total: float | None
    missing: tuple[str, ...]

    def of(self, name: str) -> float | None:
        """The total of this name, a key of :data:`PARTS`."""
        return {"vbench_quality": self.quality, "vbench_semantic": self.semantic, "vbench_total": self.total}[name]


def vbench_totals(scores: Mapping[str, float]) -> VBenchTotals:
    """Aggregate raw VBench scores as the leaderboard does, without counting a missing one as 0.

    Args:
        scores: Raw score per dimension, a fraction; names with spaces or underscores. None and NaN mean missing.

    Raises:
        ValueError: A name is not one of the 16 dimensions, is given twice, or its score is out of range.

    Source: cal_final_score.py of Vchitect/VBench.
    """
    known = _checked(scores)
    quality, semantic = (_weighted_mean(known, names) for names in (QUALITY_DIMENSIONS, SEMANTIC_DIMENSIONS))
    total = None
    if quality is not None and semantic is not None:
        total = (QUALITY_WEIGHT * quality + SEMANTIC_WEIGHT * semantic) / (QUALITY_WEIGHT + SEMANTIC_WEIGHT)
    missing = tuple(name for name in DIMENSIONS if name not in known)
    return VBenchTotals(quality=quality, semantic=semantic, total=total, missing=missing)


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
        low = REGISTRY[name].lowest
        if not low <= value <= 1.0:
            raise ValueError(f"{name} = {value} is outside {low:g} to 1; scores are fractions, not percent")
        known[name] = float(value)
    return known


def _weighted_mean(known: Mapping[str, float], dimensions: Sequence[str]) -> float | None:
    """Weighted mean of the normalised scores of those dimensions; None if one of them is not known."""
    if any(name not in known for name in dimensions):
        return None
    limits = {name: REGISTRY[name].limits for name in dimensions}
    normalised = [(known[name] - low) / (high - low) for name, (low, high) in limits.items()]
    weights = [REGISTRY[name].share for name in dimensions]
    return math.fsum(w * x for w, x in zip(weights, normalised, strict=True)) / math.fsum(weights)
