"""On which stills, and on which patches of them, the linear filter is fitted; preflight and plan ask it too."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

Size = tuple[int, int]

MOST_STILLS = 512
LONGEST_PATCH = 24  # native pixels; on the miniature's world 16, 24 and 48 differ by 0.02 dB


@dataclass(frozen=True)
class Patch:
    """What the filter is fitted on: a native size and the target size that it becomes, (height, width) in pixels."""

    native: Size
    target: Size


def patch_of(native: Size, target: Size, stills: Sequence[Size]) -> Patch:
    """The largest patch of whole pixels at both sizes, of the clips' enlargement, that lies within every still.

    Args:
        native: Of the clips.
        target: Of the clips.
        stills: Sizes that training images are cut to.

    Raises:
        ValueError: A still is smaller than the smallest patch; names both.
    """
    small, large = [], []
    for axis, name in enumerate(("high", "wide")):
        enlargement = Fraction(target[axis], native[axis])
        shortest = min(still[axis] for still in stills)
        times = min(LONGEST_PATCH // enlargement.denominator or 1, shortest // enlargement.numerator)
        if not times:
            raise ValueError(
                f"method linear is fitted on stills at least {enlargement.numerator} pixels {name}, as an enlargement "
                f"of {enlargement} takes; data.high makes them {shortest}: raise it, or take out the row"
            )
        small.append(times * enlargement.denominator)
        large.append(times * enlargement.numerator)
    return Patch((small[0], small[1]), (large[0], large[1]))
