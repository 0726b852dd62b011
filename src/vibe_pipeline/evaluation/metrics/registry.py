"""Every metric, wherever it comes from. To add one, add an entry to its family's file."""

from types import MappingProxyType
from typing import TypeVar

from vibe_pipeline.evaluation.metrics.asked import ASKED
from vibe_pipeline.evaluation.metrics.averages import AVERAGES
from vibe_pipeline.evaluation.metrics.miniature import ATTRIBUTES
from vibe_pipeline.evaluation.metrics.patches import PATCH_QUALITY
from vibe_pipeline.evaluation.metrics.resolution import MEASURES
from vibe_pipeline.io.metric import Metric
from vibe_pipeline.vbench.dimensions import REGISTRY, TOTALS

Kind = TypeVar("Kind", bound=Metric)

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (*MEASURES, *ATTRIBUTES, PATCH_QUALITY, *ASKED, *REGISTRY.values(), *AVERAGES, *TOTALS)
}
FAMILIES = MappingProxyType(
    {
        "detail": ("Detail and noise", "Resolution-aware measures: what the extra pixels hold."),
        "high_resolution": (
            "High resolution, as other work measures it",
            "All of them reward noise: read them beside residual noise, or beside the true render where there is one.",
        ),
        "ucf101": (
            "Whole clips on UCF-101, as work on class-conditional video reports them",
            "HPDM's protocol; neither sees the extra resolution, as every frame is brought to 256 pixels.",
        ),
        "miniature": ("Content, read back from the miniature world", "Possible because every true scene is known."),
        "vbench": ("VBench", "It shrinks every clip before scoring, so it hardly sees the extra resolution."),
        "overall": (
            "Averages over VBench dimensions",
            "Plain means of raw scores of one clip; none is VBench's total.",
        ),
        "totals": ("VBench's totals", "One figure an arm, from its dimensions' means, so without an interval."),
    }
)
"""Title and one line of each block of the report, in their order."""


def of_kind(kind: type[Kind]) -> list[Kind]:
    """The entries that are measured alike, in order."""
    return [metric for metric in METRICS.values() if isinstance(metric, kind)]
