"""MagCache (arXiv 2506.09045): steps whose blocks are left out, by how their residual's size changes from step to step.

How the size changes, its ratios, is nearly the same for every clip of a model, resolution and schedule: measured on one
clip, they say beforehand which steps are left out of all others. Each transformer and each guidance pass has its own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import Field, PositiveInt

from vibe_pipeline.diffusion.step_cache_base import Passes, StepCache

if TYPE_CHECKING:
    from torch import nn

PassRatios = Mapping[str, tuple[float, ...]]
"""By guidance pass, `conditional` and `unconditional`: one ratio a forward, 1 for the first."""
Ratios = Mapping[str, PassRatios]
"""By the transformer's folder in the model."""
PassCalls = Mapping[str, int]
"""Forwards of each guidance pass."""
CALIBRATING = 10**9  # forwards: diffusers prints its ratios and forgets them after so many


@dataclass(frozen=True)
class Mag(StepCache):
    """A step takes over the last computed residual of all blocks, as long as the ratios since then say it may.

    With r_t = mean over tokens of |residual_t| / |residual_(t-1)|, a = product of r over the steps since the last
    computed one, and e = sum of |1 - a| over them: a step is left out where e <= `tolerance` and they are at most
    `most_skips`.

    Attributes:
        tolerance: The largest e at which a step is left out.
        most_skips: Steps left out in a row.
        retain: Share of a pass's forwards at its start that are all computed.
        ratios: A file of them, as a calibration writes it; None: one clip is denoised for them first, whole.
    """

    name: ClassVar[str] = "mag"
    one_pass: ClassVar[bool] = True

    tolerance: Annotated[
        float, Field(ge=0, description="mag: accumulated change of the residual's size up to which steps are left out")
    ] = 0.06
    most_skips: Annotated[PositiveInt, Field(description="mag: steps left out in a row, at most")] = 3
    retain: Annotated[
        float, Field(ge=0, le=1, description="mag: share of a pass at its start that is all computed; [C] diffusers'")
    ] = 0.2
    ratios: Annotated[
        Path | None, Field(description="mag: a file that a calibration wrote; None: calibrated on a run's first clip")
    ] = None

    @property
    def calibrates(self) -> bool:
        """Whether a clip has to be denoised for the ratios."""
        return self.ratios is None

    def computed(self, calls: int, guidance: str = "conditional") -> int:
        """As the file's ratios say, of two experts the most; all where the ratios are not known yet."""
        if self.ratios is None or not self.ratios.is_file():
            return calls
        found = (own[guidance] for own in read_ratios(self.ratios).values() if guidance in own)
        return max((calls - len(self.left_out(_stretched(each, calls))) for each in found), default=calls)

    def left_out(self, ratios: tuple[float, ...]) -> list[int]:
        """Which forwards of a pass are left out, counted from 0, as diffusers' hook decides."""
        begin, found = int(self.retain * len(ratios) + 0.5), []
        one, zero = np.float32(1), np.float32(0)  # as the hook's tensors, so that both decide alike
        product, change, steps = one, zero, 0
        for i in range(begin, len(ratios)):
            product, steps = product * np.float32(ratios[i]), steps + 1
            change += abs(one - product)
            if i and change <= np.float32(self.tolerance) and steps <= self.most_skips:
                found.append(i)
            else:
                product, change, steps = one, zero, 0
        return found

    def held(self, layers: int) -> int:
        """What goes into the blocks, and their residual."""
        return 2

    def config(self) -> Any:
        """diffusers' MagCacheConfig for a calibration: everything is computed, and the ratios are noted."""
        from diffusers import MagCacheConfig

        config: Any = MagCacheConfig(calibrate=True, num_inference_steps=CALIBRATING)
        config.passes = Calibration()
        return config

    def with_ratios(self, ratios: PassRatios, calls: PassCalls) -> Calibrated:
        """The same for a transformer whose ratios are known.

        Args:
            ratios: Of every guidance pass that it runs.
            calls: Forwards of each; a pass with another number takes the nearest in proportion, as diffusers does.
        """
        return Calibrated(**vars(self), own={name: _stretched(ratios[name], n) for name, n in calls.items() if n})

    def words(self) -> str:
        """Name and limits."""
        return f"MagCache {self.tolerance:g}, at most {self.most_skips} in a row"


@dataclass(frozen=True)
class Calibrated(Mag):
    """MagCache of one transformer.

    Attributes:
        own: Its ratios.
    """

    own: PassRatios = ()  # type: ignore[assignment]  # always given; what is inherited has defaults

    def config(self) -> Any:
        """diffusers' MagCacheConfig of the first pass, which turns into that of the pass that is running."""
        configs = {name: self._config(ratios) for name, ratios in self.own.items()}
        config = self._config(next(iter(self.own.values())))
        config.passes = _Switching(configs)
        return config

    def _config(self, ratios: tuple[float, ...]) -> Any:
        from diffusers import MagCacheConfig

        return MagCacheConfig(
            threshold=self.tolerance,
            max_skip_steps=self.most_skips,
            retention_ratio=self.retain,
            num_inference_steps=len(ratios),
            mag_ratios=list(ratios),
        )


class Calibration(Passes):
    """What a calibration has found.

    Attributes:
        found: Ratios so far, by guidance pass.
    """

    def __init__(self) -> None:
        self.found: dict[str, tuple[float, ...]] = {}

    def leave(self, name: str, transformer: nn.Module) -> None:
        """After a forward of a pass."""
        state: Any = _leader(transformer).state_manager.get_state()
        self.found[name] = tuple(state.calibration_ratios)


class _Switching(Passes):
    """diffusers' hooks read one list of ratios: they are given that of the pass that is running."""

    def __init__(self, configs: Mapping[str, Any]) -> None:
        self._configs = configs

    def enter(self, name: str, sigma: object, transformer: nn.Module) -> None:
        """Before a forward of a pass."""
        config: Any = transformer._cache_config
        config.mag_ratios = self._configs[name].mag_ratios
        config.num_inference_steps = self._configs[name].num_inference_steps


def found_ratios(transformer: nn.Module) -> PassRatios:
    """What the calibration on a transformer has found."""
    config: Any = transformer._cache_config
    return dict(config.passes.found)


def _leader(transformer: nn.Module) -> Any:
    from diffusers.hooks.mag_cache import _MAG_CACHE_LEADER_BLOCK_HOOK as NAME

    blocks: Any = transformer.blocks
    return blocks[0]._diffusers_hook.get_hook(NAME)


def _stretched(ratios: tuple[float, ...], calls: int) -> tuple[float, ...]:
    """So many, each the nearest in proportion: diffusers' `nearest_interp`, for a plan, which has no torch."""
    if calls in (len(ratios), 0):
        return ratios[:calls]
    if calls == 1:
        return ratios[-1:]
    scale = (len(ratios) - 1) / (calls - 1)
    return tuple(ratios[round(i * scale)] for i in range(calls))


def read_ratios(path: Path) -> Ratios:
    """Of a file: {"ratios": {"transformer": {"conditional": [1.0, ...], "unconditional": [1.0, ...]}}}.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is not such a file; names what is wrong.
    """
    try:
        content = json.loads(path.read_text())["ratios"]
        found = {part: {name: tuple(map(float, each)) for name, each in own.items()} for part, own in content.items()}
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file; leave ratios out, and a run writes one") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} holds no ratios of MagCache ({type(error).__name__}: {error}): name a file that a run wrote, or "
            "leave ratios out"
        ) from None
    for part, own in found.items():
        for name, each in own.items():
            if not each or not all(math.isfinite(x) and x > 0 for x in each):
                raise ValueError(f"{path}: ratios of {part}, {name}, are not positive numbers: {list(each)[:4]}")
    return found
