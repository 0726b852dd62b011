"""Which forward of a clip is running: for attention kinds that do something else at another step."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Steps:
    """Forwards of one clip (or batch of clips), counted for each guidance pass by itself.

    Attributes:
        guidance: The pass that is running; "" where nobody says.
        kept: What layers keep from one forward to a later one of the same pass, by (pass, layer).
    """

    def __init__(self) -> None:
        self.guidance = ""
        self.kept: dict[tuple[str, int], Any] = {}
        self._counts: dict[str, int] = {}

    @property
    def step(self) -> int:
        """The forward of this pass that is running, counted from 1; 0 before the first."""
        return self._counts.get(self.guidance, 0)

    def tick(self) -> None:
        """A forward begins."""
        self._counts[self.guidance] = self.step + 1

    def forget(self) -> None:
        """A clip begins, or has ended: nothing is taken over from it."""
        self._counts.clear()
        self.kept.clear()

    @contextmanager
    def within(self, guidance: str) -> Iterator[None]:
        """The forwards inside are of this pass."""
        before, self.guidance = self.guidance, guidance
        try:
            yield
        finally:
            self.guidance = before
