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
    """

    name: str
    label: str
    explanation: str
    direction: Direction
    family: str
