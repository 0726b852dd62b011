"""Where a clip stands still, from its pixels alone: temporal measures must not take motion for noise.

The mask is made once from the native clip and serves every arm of its prompt and seed, so that arms are compared on
the same pixels and an arm's own noise cannot change where it is measured.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from vibe_pipeline.evaluation.metrics.pixels import Frame, Grid
from vibe_pipeline.io.files import write_atomic

LEAST_SHARE = 0.05
"""Of the frame: a smaller still part says little about the picture, and is often a border or a caption."""
SMOOTHING = 1 / 352  # of the height, in sigma: 2 pixels at 704, which takes six sevenths of white noise
LEAST_SMOOTHING = 2.0  # pixels
GROWTH = 1 / 96  # of the height: 7 pixels at 704, as a second pass shifts edges a little
QUIET_CHANGE, LOUDEST_CHANGE = 4 / 255, 16 / 255
NOISE_WIDTHS = 8.0
"""Standard deviations: of 121 normal samples one in two thousand spans more."""
MEAN_CHANGE = 2 / math.sqrt(math.pi)  # mean absolute difference of two normal samples, in standard deviations


@dataclass(frozen=True)
class StaticMask:
    """Where nothing moves.

    Attributes:
        mask: [h, w], at the size of the clip that it was made from.
        reason: Why nothing is known, if so.
    """

    mask: NDArray[np.bool_]
    reason: str = ""

    @property
    def share(self) -> float:
        """Of the frame, 0 to 1."""
        return float(self.mask.mean())

    @property
    def problem(self) -> str:
        """Why temporal measures have no score under this mask, or an empty string."""
        if self.reason or self.share >= LEAST_SHARE:
            return self.reason
        return (
            f"nothing is static: nothing moves in {self.share:.1%} of the frame, and at least {LEAST_SHARE:.0%} is "
            "needed to tell noise from motion"
        )

    def sized(self, height: int, width: int) -> NDArray[np.float32]:
        """The mask for frames of another size, 1 or 0, [height, width]."""
        rows, columns = (
            ((np.arange(to) + 0.5) * own / to).astype(int)
            for own, to in zip(self.mask.shape, (height, width), strict=True)
        )
        return self.mask[rows][:, columns].astype(np.float32)

    def save(self, path: Path) -> None:
        """Keep it as an .npz."""
        write_atomic(path, lambda p: np.savez_compressed(p, mask=self.mask, reason=self.reason))

    @classmethod
    def load(cls, path: Path) -> "StaticMask":
        """Read what :meth:`save` wrote.

        Raises:
            ValueError: The file is damaged.
            OSError: It cannot be read.
        """
        try:
            with np.load(path) as kept:
                return cls(kept["mask"].astype(bool), str(kept["reason"]))
        except (KeyError, EOFError, ValueError, OSError) as error:
            raise ValueError(f"{path} is not a kept mask: {error}") from error


def find_static(frames: Iterable[NDArray[np.uint8] | NDArray[np.floating]]) -> StaticMask:
    """Where the smoothed luminance of a clip stays within a narrow range in all of its frames.

    The range is 8 standard deviations of the clip's own noise, and between 4 and 16 of 255 steps: below, noise of
    storage would count as motion, above, a panned texture as noise. The noise is that of the quietest part: the mean
    change from frame to frame, averaged over a sixteenth of the height, at the quantile of half of
    :data:`LEAST_SHARE`. Grain up to about 14/255 before smoothing, compression, and a slow drift of brightness stay
    static; an object that passes, a pan, a cut and a light that is switched do not, nor what lies within a hundredth
    of the height of them. What no pixel shows cannot be seen: a uniform surface that moves within itself, black bars,
    and a pan over texture as fine and faint as grain count as static.

    Args:
        frames: RGB [H, W, 3], one after another.

    Raises:
        ValueError: There is no frame.

    Source: own.
    """
    lowest = highest = changes = np.zeros(0, np.float32)
    before: NDArray[np.float32] | None = None
    steps = 0
    for picture in frames:
        luma = np.asarray(Frame(picture, Grid(1, 1)).luma, np.float32)
        smooth = ndimage.gaussian_filter(luma, max(LEAST_SMOOTHING, SMOOTHING * len(luma)))
        if before is None:
            lowest, highest, changes = smooth.copy(), smooth.copy(), np.zeros_like(smooth)
        else:
            np.minimum(lowest, smooth, out=lowest)
            np.maximum(highest, smooth, out=highest)
            changes += np.abs(smooth - before)
            steps += 1
        before = smooth
    if before is None:
        raise ValueError("a clip without frames has no static part")
    if not steps:
        return StaticMask(
            np.zeros(before.shape, bool), "the native clip has one frame, so what stands still is unknown"
        )
    moving = highest - lowest > _widest(changes / steps)
    reach = max(1, round(GROWTH * len(before)))
    return StaticMask(~ndimage.maximum_filter(moving, 2 * reach + 1))


def _widest(change: NDArray[np.floating]) -> float:
    """The range of a pixel's luminance up to which it is static."""
    local = ndimage.uniform_filter(change, max(3, len(change) // 16))
    noise = float(np.quantile(local, LEAST_SHARE / 2)) / MEAN_CHANGE
    return float(np.clip(NOISE_WIDTHS * noise, QUIET_CHANGE, LOUDEST_CHANGE))
