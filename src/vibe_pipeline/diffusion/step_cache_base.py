"""What a step cache is: which forwards, or parts of them, an earlier one stands in for; no torch to ask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vibe_pipeline.diffusion.flow import Levels


@dataclass(frozen=True)
class StepCache:
    """One way of leaving out forwards; subclasses fill in what differs, and their fields are a row's.

    Attributes:
        name: As `step_cache.kind` says it.
        by_batch: It decides for all clips of a batch at once, so that a clip depends on those beside it.
        one_pass: It goes by one resolution and schedule; a clip that is made in several passes has no one.
    """

    name: ClassVar[str]
    by_batch: ClassVar[bool] = False
    one_pass: ClassVar[bool] = False

    @property
    def calibrates(self) -> bool:
        """Whether a clip has to be denoised whole before the first with this cache."""
        return False

    def computed(self, calls: int, guidance: str = "conditional") -> int:
        """How many of so many forwards in a row are computed; the most that can be, where that depends on the clip."""
        return calls

    def reused(self, levels: Levels) -> tuple[int, int]:
        """Of a pass's forwards at these levels in a row: in how many an earlier one stands in for attention alone.

        Returns:
            For self-attention, and for cross-attention.
        """
        return 0, 0

    def held(self, layers: int) -> int:
        """How many tensors of the transformer's hidden states each guidance pass keeps between steps, at most."""
        return 0

    def config(self) -> Any:
        """diffusers' configuration."""
        raise NotImplementedError

    def words(self) -> str:
        """For the report."""
        raise NotImplementedError


class Passes:
    """What is told which guidance pass runs, where diffusers' hooks do not keep them apart; the config's `passes`."""

    def enter(self, name: str, sigma: Tensor, transformer: nn.Module) -> None:
        """Before a forward of a pass at a noise level."""

    def leave(self, name: str, transformer: nn.Module) -> None:
        """After it."""

    def forget(self) -> None:
        """A clip begins, or has ended."""
