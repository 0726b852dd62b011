"""Every measure that is made only where `evaluation.extra_measures` names it; light, as planning reads it too."""

from collections.abc import Collection

from vibe_pipeline.evaluation.metrics.distributions import DISTRIBUTIONS
from vibe_pipeline.evaluation.metrics.high_resolution import HIGH_RESOLUTION
from vibe_pipeline.evaluation.metrics.lpips import HD_LPIPS
from vibe_pipeline.evaluation.metrics.patches import PATCH_NETWORKS
from vibe_pipeline.io.metric import Metric

ASKED: tuple[Metric, ...] = (*HIGH_RESOLUTION, HD_LPIPS, *PATCH_NETWORKS, *DISTRIBUTIONS)


def asked_for(names: Collection[str]) -> list[Metric]:
    """The entries of these names, in their own order.

    Raises:
        ValueError: A name is not among them.
    """
    known = [metric.name for metric in ASKED]
    if wrong := [name for name in names if name not in known]:
        raise ValueError(f"evaluation.extra_measures: {wrong[0]!r} is not one of {', '.join(known)}")
    return [metric for metric in ASKED if metric.name in names]
