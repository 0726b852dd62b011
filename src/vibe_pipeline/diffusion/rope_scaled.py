"""Kinds of rotary positions that stretch with the grid: by its ratio to the native one, and by the noise level.

With s = L / L_native of an axis (1 at the least), D its channels and j = 0 … D/2 - 1:

yarn, vision_yarn   slow pairs interpolated, fast ones as they were, and a temperature (arXiv 2309.00071; for images
                    whlzy/FiT, `fit/model/rope.py`, arXiv 2410.13925)
time_aware          interpolated while the noise is high, a larger base afterwards (Lumina-Next, arXiv 2406.18583)
dype                a larger base whose exponent falls with the noise (DyPE, arXiv 2510.20766)

Time is as long as the base knows it, so its axis stays. At the native size each is plain RoPE.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field, PositiveFloat

from vibe_pipeline.diffusion.rope_base import THETA, RopeKind, RopePlace, ntk_angles

if TYPE_CHECKING:
    from torch import Tensor


def correction_pair(rotations: float, dim: int, length: int, theta: float = THETA) -> float:
    """Which pair turns `rotations` times over `length` positions: D ln(L / (2 pi r)) / (2 ln theta)."""
    return dim * math.log(length / (rotations * 2 * math.pi)) / (2 * math.log(theta))


def yarn_angles(positions: Tensor, dim: int, scale: float, length: int, rotations: tuple[float, float]) -> Tensor:
    """Angles of an axis: pairs that turn often stay, those that hardly turn are interpolated, a ramp between.

    frequency = theta^(-2 j / D) (m + (1 - m) / s), m = 1 below pair c(fast), 0 above c(slow).

    Args:
        positions: Of the tokens along the axis, [L].
        dim: D, channels of the axis.
        scale: s, how many times longer the axis is than in training.
        length: The longest that the axis was trained with, in tokens.
        rotations: (fast, slow): turns over that length.

    Returns:
        float64 [L, dim/2].
    """
    import torch

    fast, slow = rotations
    low = max(math.floor(correction_pair(fast, dim, length)), 0)
    high = min(math.ceil(correction_pair(slow, dim, length)), dim - 1)
    ramp = (torch.arange(dim // 2, dtype=torch.float64) - low) / (high - low if high != low else 0.001)
    kept = 1 - ramp.clamp(0, 1)
    return ntk_angles(positions, dim) * (kept + (1 - kept) / scale)


def yarn_amplitude(scale: float) -> float:
    """0.1 ln s + 1: cos and sin are multiplied by it, the scores so by its square."""
    return 0.1 * math.log(scale) + 1 if scale > 1 else 1.0


@dataclass(frozen=True)
class Yarn(RopeKind):
    """YaRN with one ratio for both axes, the larger.

    Attributes:
        rotations: (fast, slow): turns over the native length from which a pair stays, and to which it is interpolated.
    """

    name: ClassVar[str] = "yarn"
    scaled: ClassVar[bool] = True

    rotations: Annotated[
        tuple[PositiveFloat, PositiveFloat],
        Field(
            description="(fast, slow): turns over the native length that are kept, and that are interpolated, for yarn"
        ),
    ] = (32.0, 1.0)

    def scale(self, axis: int, at: RopePlace) -> float:
        """s of an axis of the frame."""
        return max(at.ratios)

    def angles_at(self, axis: int, positions: Tensor, dim: int, at: RopePlace) -> Tensor:
        """Interpolated by parts in space, plain in time."""
        if axis == 0:
            return ntk_angles(positions, dim)
        return yarn_angles(positions, dim, self.scale(axis, at), at.trained[axis], self.rotations)

    def amplitude(self, at: RopePlace) -> float:
        """Of the larger ratio."""
        return yarn_amplitude(max(at.ratios))

    def check(self, grid: tuple[int, int, int], native: tuple[int, int]) -> None:
        """Fast pairs turn more often than slow ones."""
        if self.rotations[0] <= self.rotations[1]:
            raise ValueError(f"rope.rotations {list(self.rotations)}: the first, of fast pairs, is the larger")


@dataclass(frozen=True)
class VisionYarn(Yarn):
    """YaRN with a ratio of its own for each axis (FiTv2)."""

    name: ClassVar[str] = "vision_yarn"

    def scale(self, axis: int, at: RopePlace) -> float:
        """s of that axis."""
        return at.ratios[axis]


@dataclass(frozen=True)
class TimeAware(RopeKind):
    """Lumina-Next's: positions interpolated, x / s, while it is clean by less than `watershed`; then theta s.

    s is the root of the ratio of areas. Its attention goes with `attention.scale: proportional`.

    Attributes:
        watershed: 1 - sigma from which the base grows instead.
    """

    name: ClassVar[str] = "time_aware"
    scaled: ClassVar[bool] = True

    watershed: Annotated[
        float, Field(ge=0, le=1, description="1 - sigma up to which positions are interpolated, for time_aware")
    ] = 0.3

    def angles_at(self, axis: int, positions: Tensor, dim: int, at: RopePlace) -> Tensor:
        """By the noise level, in space alone."""
        if axis == 0:
            return ntk_angles(positions, dim)
        scale = math.sqrt(at.ratios[1] * at.ratios[2])
        if 1 - at.sigma < self.watershed:
            return ntk_angles(positions, dim) / scale
        return ntk_angles(positions, dim, scale)


@dataclass(frozen=True)
class Dype(RopeKind):
    """DyPE on NTK: theta s^(strength sigma^power D / (D - 2)), plain at the end, where details are settled.

    Attributes:
        strength: Of the exponent at pure noise.
        power: Of sigma in the exponent: the larger, the sooner the stretching ends.
    """

    name: ClassVar[str] = "dype"
    scaled: ClassVar[bool] = True

    strength: Annotated[PositiveFloat, Field(description="of the exponent at pure noise, for dype")] = 2.0
    power: Annotated[PositiveFloat, Field(description="of sigma in the exponent, for dype")] = 2.0

    def angles_at(self, axis: int, positions: Tensor, dim: int, at: RopePlace) -> Tensor:
        """By the axis' own ratio."""
        exponent = self.strength * at.sigma**self.power * dim / (dim - 2)
        return ntk_angles(positions, dim, at.ratios[axis] ** exponent)
