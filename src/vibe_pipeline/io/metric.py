"""What is known of a metric wherever it comes from. Only the standard library: VBench's second environment reads it."""

from dataclasses import dataclass
from typing import Literal

Direction = Literal["higher", "lower", "none"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric; kinds of metrics add how they are measured.

    Attributes:
        name: In tables and parameters.
        label: For people.
        explanation: One line on what it says.
        direction: Which side is better.
        family: The block of the report that it stands in.
        asked: Measured only where `evaluation.extra_measures` names it.
        seconds: Processor seconds a megapixel that it adds to measuring a clip, of every frame that is decoded for it;
            0: in the sum of all that are always measured.
    """

    name: str
    label: str
    explanation: str
    direction: Direction
    family: str
    asked: bool = False
    seconds: float = 0.0
