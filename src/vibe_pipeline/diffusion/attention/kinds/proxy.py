"""`proxy`: GCLF whose coarse keys are tokens themselves, one of each tile, in place of averages (PT-DiT)."""

from dataclasses import dataclass, replace
from typing import ClassVar

from vibe_pipeline.diffusion.attention.geometry import Grid, NativeGrid, Windows
from vibe_pipeline.diffusion.attention.kinds.gclf import Gclf


@dataclass(frozen=True)
class Proxy(Gclf):
    """The window, and of every tile of each frame one token drawn at random, which every query sees.

    An average of keys after RoPE loses what turns quickly; a token keeps it, but stands for its tile by chance. PT-DiT
    (arXiv 2409.04005) draws one in each window. Here one draw a token grid serves every layer and step.
    """

    name: ClassVar[str] = "proxy"

    def windows(self, grid: Grid, native: NativeGrid | None, layer: int = 0) -> Windows:
        """As of GCLF, with proxies."""
        return replace(super().windows(grid, native, layer), proxies=True)
