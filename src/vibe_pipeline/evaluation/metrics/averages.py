"""The family of averages: plain means over several VBench dimensions of one clip. One entry each.

Papers print such means as "overall" or "average"; none is VBench's total. The two means over five differ in one
dimension, so figures of one must never stand beside figures of the other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vibe_pipeline.io.metric import Direction, Metric


@dataclass(frozen=True, kw_only=True)
class Average(Metric):
    """The mean of the raw scores that a clip has on several dimensions; without one of them there is none.

    Attributes:
        fixed: The dimensions; empty: those that `evaluation.overall_dimensions` names.
        instead: Of those, what is taken in whose place: {dimension: the one that stands for it}.
    """

    direction: Direction = "higher"
    family: str = "overall"
    fixed: tuple[str, ...] = ()
    instead: Mapping[str, str] = field(default_factory=dict)

    def dimensions(self, overall: Sequence[str]) -> tuple[str, ...]:
        """What is averaged, where `evaluation.overall_dimensions` is `overall`.

        Raises:
            ValueError: `overall` lacks what this entry exchanges, or has its substitute already.
        """
        if self.fixed:
            return self.fixed
        for gone, come in self.instead.items():
            if gone not in overall or come in overall:
                raise ValueError(f"evaluation.overall_dimensions has no {gone} for which {come} could stand")
        return tuple(self.instead.get(name, name) for name in overall)


AVERAGES: tuple[Average, ...] = (
    Average(
        name="overall6",
        label="Overall, plain mean",
        explanation="Mean of the raw scores on the dimensions that evaluation.overall_dimensions names, clip by clip. "
        "The paper's “overall” fits the six of its default; it is not VBench's total.",
    ),
    Average(
        name="overall6_tf",
        label="Overall, flickering for motion",
        explanation="The same mean with temporal flickering in place of motion smoothness: which of the two the paper "
        "takes is inferred.",
        instead={"motion_smoothness": "temporal_flickering"},
    ),
    Average(
        name="average5_ultragen",
        label="UltraGen's five",
        explanation="Mean of subject and background consistency, motion smoothness, aesthetic and imaging quality, as "
        "UltraGen prints it. Not comparable with CineScale's five.",
        fixed=(
            "subject_consistency",
            "background_consistency",
            "motion_smoothness",
            "aesthetic_quality",
            "imaging_quality",
        ),
    ),
    Average(
        name="average5_cinescale",
        label="CineScale's five",
        explanation="Mean of subject and background consistency, temporal flickering, aesthetic and imaging quality, "
        "as the second CineScale prints it. Not comparable with UltraGen's five.",
        fixed=(
            "subject_consistency",
            "background_consistency",
            "temporal_flickering",
            "aesthetic_quality",
            "imaging_quality",
        ),
    ),
)
