"""The degradation check: does stage 2 learn the map that inference needs?"""

from collections.abc import Iterable
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from vibe_pipeline.diffusion.objectives import degrade
from vibe_pipeline.experiment.adapters import AdapterParams, DegradationParams
from vibe_pipeline.images.cache import LatentCache

FORMS = (DegradationParams(kind="latent"), DegradationParams(kind="pixel"))
"""The paper's form and ours: always checked, whatever the adapters do."""
FIGURES = ("mse_degraded", "mse_upsampled", "mse_between")


def degradation_check(manifest: dict[str, Any], adapters: Iterable[AdapterParams] = ()) -> pd.DataFrame:
    """Compare the degraded latents with the true ones, on the held-out images.

    At inference the model is fed the latent of a really enlarged native picture. If the degraded latent is much
    further from the truth than that one, stage 2 learns to undo a damage that it will never meet.

    Args:
        manifest: Of the latent cache.
        adapters: Whose degradations are checked beside the two forms as they are published and proposed.

    Returns:
        One row per degradation, the two forms first: kind (latent, pixel, pixel_drawn), factor and mode (of latent
        alone), mse_degraded (degraded against true), mse_upsampled (really enlarged against true), mse_between
        (degraded against really enlarged), all per latent element of unit variance, mean over images.
    """
    asked = [_settings(d) for d in (*FORMS, *(a.degradation for a in adapters if a.degrades))]
    cache = LatentCache(manifest, held_out=True)
    rows = []
    for settings in dict.fromkeys(asked):
        figures = [_figures(cache, index, settings) for index in range(len(cache))]  # one by one: buckets differ
        named = dict(zip(("kind", "factor", "mode"), settings, strict=True))
        rows.append(named | pd.DataFrame(figures).mean().to_dict())
    return pd.DataFrame(rows)


def check_of(checks: pd.DataFrame, adapter: AdapterParams) -> pd.DataFrame:
    """The check's row of an adapter's own degradation; none where it does not degrade, or others were checked."""
    kind, factor, mode = _settings(adapter.degradation)
    found = checks[checks["kind"] == kind]
    if kind == "latent":
        found = found[(found["factor"] == factor) & (found["mode"] == mode)] if "factor" in found else found.iloc[:0]
    return found if adapter.degrades else found.iloc[:0]


def _settings(degradation: DegradationParams) -> tuple[str, float | None, str | None]:
    """Kind, factor, mode; the pixel forms have neither of the last two, as the latents are cached."""
    if degradation.kind != "latent":
        return degradation.kind, None, None
    return "latent", degradation.factor, degradation.mode


def _figures(cache: LatentCache, index: int, settings: tuple[str, float | None, str | None]) -> dict[str, float]:
    """Of one image; of drawn degradations the mean over its draws."""
    high, enlarged = cache.batch("high", [index]), cache.batch("pixel", [index])
    kind, factor, mode = settings
    if kind == "pixel_drawn":
        made = [cache.batch("drawn", [index], torch.tensor([draw])) for draw in range(cache.draws)]
    else:
        made = [enlarged if factor is None or mode is None else degrade(high, factor, mode)]
    return degradation_figures(torch.cat(made), high, enlarged)


def degradation_figures(degraded: Tensor, true: Tensor, enlarged: Tensor) -> dict[str, float]:
    """`FIGURES` of latents of one shape: degraded ones, true ones, and those of really enlarged pictures."""

    def distance(one: Tensor, other: Tensor) -> float:
        return float((one - other).square().mean())

    pairs = ((degraded, true), (enlarged, true), (degraded, enlarged))
    return dict(zip(FIGURES, (distance(*pair) for pair in pairs), strict=True))
