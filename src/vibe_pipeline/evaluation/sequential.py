"""Verdicts at several looks at growing data, and together no more false ones than a single look would give.

Whoever looks at 16 prompts, then at 32, and stops once something is told, has tested twice. A group-sequential design
names the looks beforehand and tests each at a smaller level. The statistic over prompts that are added block by block
is, seen at the looks, a Brownian motion at the share of the prompts that are there (Jennison and Turnbull, Group
Sequential Methods, 2000, chapter 3). Lan and DeMets (Biometrika 70, 1983, 659) fix how much of the whole level is spent
by each share; the levels follow look by look, by integrating over all ways on which nothing was told before (Armitage,
McPherson and Rowe, J. R. Statist. Soc. A 132, 1969, 235).

For many claims at once the same is asked of each p-value at a look: at which whole level would it just have been told
there? Holm's method over those is a group-sequential Holm procedure (Maurer and Bretz, Statist. Biopharm. Res. 5, 2013,
311; Tamhane et al., Stat. Med. 40, 2021, 5333): it needs levels that rise with the whole level, as they do here. A
look's level divided by how many claims there are would be too large, since the looks of rare events go together less.

Training seeds that matter keep estimates of two looks closer to each other than their shares of the prompts say, and so
make false verdicts rarer, not more frequent.
"""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.experiment.sequential import Spending

Array = NDArray[np.float64]
WIDEST = 8.0
"""Standard deviations beyond which no way is followed: 1e-15 of them go there."""
LEAST, MOST = 1e-9, 0.98
"""Whole levels between which a look's level is known; a p-value beyond counts as one at the end."""


def _obrien_fleming(share: float, level: float) -> float:
    """Two-sided 2 · (2 − 2 Φ(z / √share)), z the normal quantile of 1 − level / 4: level / 2 to either side."""
    from scipy.special import ndtr, ndtri  # only where a claim is judged: commands that plan import this module

    return 4 * float(ndtr(ndtri(level / 4) / math.sqrt(share)))


def _pocock(share: float, level: float) -> float:
    """Level · ln(1 + (e − 1) · share)."""
    return level * math.log1p((math.e - 1) * share)


SPENT: Mapping[Spending, Callable[[float, float], float]] = MappingProxyType(
    {"obrien_fleming": _obrien_fleming, "pocock": _pocock}
)
"""How much of the whole two-sided level is spent once a share of all prompts was seen (Lan and DeMets, 1983)."""


@dataclass(frozen=True)
class Look:
    """One look out of those that were planned; without blocks the only one.

    Attributes:
        number: From 1.
        blocks: Prompts at each look.
        spending: How the level is shared out over them.
    """

    number: int = 1
    blocks: tuple[int, ...] = ()
    spending: Spending = "obrien_fleming"

    @property
    def of(self) -> int:
        """How many looks there are."""
        return len(self.blocks) or 1

    def level(self, whole: float) -> float:
        """The level at which one claim by itself is told at this look, so that all looks together have the whole."""
        if not self.blocks:
            return whole
        from scipy.special import ndtr

        return 2 * float(ndtr(-boundaries(self.blocks[: self.number], self.blocks[-1], whole, self.spending)[-1]))

    def over_all(self, p: float) -> float:
        """The least whole level at which a p-value of this look would be told, as the p-value of all looks; NaN stays.

        At the only look that is the p-value itself.
        """
        if not self.blocks or math.isnan(p):
            return p
        from scipy.special import ndtr, ndtri

        here, whole = _quantiles(self)
        seen = -float(ndtri(p / 2))
        if seen < here[0]:
            return 1.0
        return 2 * float(ndtr(-np.interp(seen, here, whole)))

    @property
    def last(self) -> "Look":
        """The last of these looks."""
        return Look(self.of, self.blocks, self.spending)

    @property
    def said(self) -> str:
        """Which look of how many, for people; '' of the only one."""
        if not self.blocks:
            return ""
        return f"look {self.number} of {self.of}, {self.blocks[self.number - 1]} of at most {self.blocks[-1]} prompts"


ONLY_LOOK = Look()


def look_of(generation: GenerationParams) -> Look:
    """The look that a run with these parameters makes.

    Raises:
        ValueError: `generation.sequential` is set and `generation.count` is none of its blocks.
    """
    planned = generation.sequential
    if planned is None:
        return ONLY_LOOK
    if generation.count not in planned.blocks:
        raise ValueError(
            f"generation.count {generation.count} is none of the looks {list(planned.blocks)} that "
            "generation.sequential fixed: verdicts between them would not be corrected for. `kedro vibe grow` makes "
            "one look after another; or set generation.count to one of them"
        )
    return Look(planned.blocks.index(generation.count) + 1, planned.blocks, planned.spending)


def boundaries(blocks: tuple[int, ...], most: int, whole: float, spending: Spending) -> tuple[float, ...]:
    """Standard normal statistics beyond which, to either side, a claim is told at each look.

    Args:
        blocks: Prompts at the looks so far, rising.
        most: Prompts at the last look that there may be.
        whole: The two-sided level of all looks together.
        spending: How it is shared out.

    Returns:
        One a look; infinite where what is spent is too small for a float.
    """
    from scipy.special import ndtri

    shares = [block / most for block in blocks]
    spent = [SPENT[spending](share, whole) for share in shares]
    found = [-float(ndtri(spent[0] / 2))]
    ways = _Ways.begun(found[0], shares[0], _nearest(shares, 0))
    for look in range(1, len(shares)):
        step = math.sqrt(shares[look] - shares[look - 1])
        found.append(ways.boundary(shares[look], step, spent[look] - spent[look - 1]))
        ways = ways.gone_on(found[-1], shares[look], step, _nearest(shares, look))
    return tuple(found)


def _nearest(shares: list[float], look: int) -> float:
    """The least distance, in standard deviations of the motion, to the looks before and after."""
    near = [shares[look] - before for before in ([0.0, *shares][look],)] + [
        after - shares[look] for after in shares[look + 1 : look + 2]
    ]
    return math.sqrt(min(near))


@dataclass(frozen=True)
class _Ways:
    """All ways on which nothing was told so far: where they are now, [N] each, and how much weight is there."""

    at: Array
    weight: Array

    @classmethod
    def begun(cls, boundary: float, share: float, scale: float) -> "_Ways":
        """At the first look."""
        at, width = _nodes(boundary, share, scale)
        return cls(at, width * _density(at / math.sqrt(share)) / math.sqrt(share))

    def boundary(self, share: float, step: float, spent: float) -> float:
        """The statistic that ways as heavy as `spent` exceed at the next look."""
        from scipy.optimize import brentq
        from scipy.special import ndtr

        def beyond(boundary: float) -> float:
            end = boundary * math.sqrt(share)
            return float(self.weight @ (ndtr((self.at - end) / step) + ndtr((-self.at - end) / step)))

        if beyond(4 * WIDEST) >= spent:
            return math.inf
        return float(brentq(lambda boundary: beyond(boundary) - spent, 0.0, 4 * WIDEST, xtol=1e-12))

    def gone_on(self, boundary: float, share: float, step: float, scale: float) -> "_Ways":
        """At the next look, those within its boundary."""
        at, width = _nodes(boundary, share, scale)
        return _Ways(at, width * (_density((at[:, None] - self.at) / step) @ self.weight) / step)


def _nodes(boundary: float, share: float, scale: float) -> tuple[Array, Array]:
    """Gauss-Legendre nodes and weights within a boundary, fine enough for a normal density of width `scale`."""
    end = min(boundary, WIDEST) * math.sqrt(share)
    at, weight = _legendre(min(1000, max(40, math.ceil(6 * end / scale))))
    return end * at, end * weight


@functools.lru_cache(maxsize=64)
def _legendre(count: int) -> tuple[Array, Array]:
    return np.polynomial.legendre.leggauss(count)


def _density(x: Array) -> Array:
    return np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


@functools.lru_cache(maxsize=64)
def _quantiles(look: Look) -> tuple[Array, Array]:
    """A look's boundary and the normal quantile of the whole level that it belongs to, both rising."""
    from scipy.special import ndtr, ndtri

    whole = np.linspace(-ndtri(MOST / 2), -ndtri(LEAST / 2), 80)
    seen = look.blocks[: look.number]
    here = np.array([boundaries(seen, look.blocks[-1], 2 * float(ndtr(-z)), look.spending)[-1] for z in whole])
    return np.maximum.accumulate(here), whole
