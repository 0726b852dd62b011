"""The family of the miniature world: what a clip shows against what its caption says.

The readout is imported where a clip is read: it needs scipy, and commands that run nothing look up metrics too.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from vibe_pipeline.io.metric import Metric
from vibe_pipeline.miniature.scene import BACKGROUNDS, parse_caption


@dataclass(frozen=True)
class Shown:
    """A clip [T, H, W, 3] in [0, 1] and its caption; what several attributes share is read once."""

    clip: NDArray[np.float32]
    caption: str

    @cached_property
    def right(self) -> Mapping[str, bool]:
        """By attribute, whether the clip shows what the caption says."""
        from vibe_pipeline.miniature.readout import read_clip

        return read_clip(self.clip).right(parse_caption(self.caption))

    def background_distance(self) -> float:
        """From the background's colour to the one asked for, RGB in [0, 1]."""
        from vibe_pipeline.miniature.readout import object_saliency

        asked = BACKGROUNDS[parse_caption(self.caption)["background"]]
        return float(np.linalg.norm(object_saliency(self.clip)[1] - np.array(asked)))


@dataclass(frozen=True, kw_only=True)
class Attribute(Metric):
    """A metric of the miniature; `value` measures it."""

    family: str = "miniature"
    value: Callable[[Shown], float]


def _right(name: str) -> Callable[[Shown], float]:
    return lambda shown: float(shown.right[name])


ATTRIBUTES = (
    Attribute(
        name="colours_right",
        label="Colours right",
        explanation="Share of clips whose object and background have the colours asked for.",
        direction="higher",
        value=_right("colours_right"),
    ),
    Attribute(
        name="motion_right",
        label="Motion right",
        explanation="Share of clips that move the way asked for, over a sane distance.",
        direction="higher",
        value=_right("motion_right"),
    ),
    Attribute(
        name="shape_right",
        label="Shape right",
        explanation="Share of clips whose shape, by template match, is the one asked for.",
        direction="higher",
        value=_right("shape_right"),
    ),
    Attribute(
        name="one_object",
        label="One object",
        explanation="Share of clips that show a single object of a sane size.",
        direction="higher",
        value=_right("one_object"),
    ),
    Attribute(
        name="background_colour_error",
        label="Background colour error",
        explanation="Distance of the background's colour to the one asked for.",
        direction="lower",
        value=Shown.background_distance,
    ),
)
