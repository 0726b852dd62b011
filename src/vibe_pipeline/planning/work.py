"""Work of a plan: operations, and the seconds that each part of the run spends."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Work:
    """Operations, 1e12, and the seconds that they take by the part of the run that spends them."""

    teraflops: float = 0.0
    parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Of all parts."""
        return sum(self.parts.values())

    def __add__(self, other: "Work") -> "Work":
        return Work(self.teraflops + other.teraflops, dict(Counter(self.parts) + Counter(other.parts)))

    def __mul__(self, times: float) -> "Work":
        return Work(self.teraflops * times, {name: seconds * times for name, seconds in self.parts.items()})
