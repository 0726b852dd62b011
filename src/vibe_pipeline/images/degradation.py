"""The degradation check: does stage 2 learn the map that inference needs?"""

from collections.abc import Iterable
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from vibe_pipeline.diffusion.objectives import blur, degrade
from vibe_pipeline.experiment.adapters import AdapterParams, DegradationParams
from vibe_pipeline.images.cache import LatentCache

FORMS = (DegradationParams(kind="latent"), DegradationParams(kind="pixel"))
"""The paper's form and ours: always checked, whatever the adapters do."""
FIGURES = ("mse_degraded", "mse_upsampled", "mse_between")
OWN = [name for names in DegradationParams.reads.values() for name in names]
"""Settings of single kinds: the table's columns between `kind` and `FIGURES`."""


def degraded_latent(clean: Tensor, degradation: DegradationParams, noise: Tensor | None = None) -> Tensor:
    """A latent as the kinds degrade it that need no cached one: latent, blur, noise.

    Args:
        clean: [B, C, T, H, W].
        degradation: What is done.
        noise: Standard normal, of the shape of `clean`; kind noise adds it.

    Raises:
        ValueError: Kind noise without noise, or a latent that is too small for the settings.
    """
    if degradation.kind == "blur":
        return blur(clean, degradation.kernel, degradation.sigma)
    if degradation.kind != "noise":
        return degrade(clean, degradation.factor, degradation.mode)
    if noise is None:
        raise ValueError("degradation kind noise adds noise that is drawn outside: give noise")
    return clean + degradation.std * noise.to(clean)


def degradation_check(manifest: dict[str, Any], adapters: Iterable[AdapterParams] = ()) -> pd.DataFrame:
    """Compare the degraded latents with the true ones, on the held-out images.

    At inference the model is fed the latent of a really enlarged native picture. If the degraded latent is much
    further from the truth than that one, stage 2 learns to undo a damage that it will never meet.

    Args:
        manifest: Of the latent cache.
        adapters: Whose degradations are checked beside the two forms as they are published and proposed.

    Returns:
        One row per degradation, the two forms first: kind, what is its own of factor and mode (latent), std (noise),
        kernel and sigma (blur; these three only where a row asks for them), mse_degraded (degraded against true),
        mse_upsampled (really enlarged against true), mse_between (degraded against really enlarged), all per latent
        element of unit variance, mean over images.
    """
    asked = (*FORMS, *(a.degradation for a in adapters if a.degrades))
    cache = LatentCache(manifest, held_out=True)
    rows = []
    for degradation in {(d.kind, *d.own.values()): d for d in asked}.values():
        figures = [_figures(cache, index, degradation) for index in range(len(cache))]  # one by one: buckets differ
        rows.append({"kind": degradation.kind} | degradation.own | pd.DataFrame(figures).mean().to_dict())
    table = pd.DataFrame(rows)
    return table[["kind", *(name for name in OWN if name in table), *FIGURES]]


def check_of(checks: pd.DataFrame, adapter: AdapterParams) -> pd.DataFrame:
    """The check's row of an adapter's own degradation; none where it does not degrade, or others were checked."""
    found = checks[checks["kind"] == adapter.degradation.kind]
    for name, value in adapter.degradation.own.items():
        found = found[found[name] == value] if name in found else found.iloc[:0]
    return found if adapter.degrades else found.iloc[:0]


def _figures(cache: LatentCache, index: int, degradation: DegradationParams) -> dict[str, float]:
    """Of one image; of drawn degradations the mean over its draws, of noise one draw, the same at every check."""
    high, enlarged = cache.batch("high", [index]), cache.batch("pixel", [index])
    if degradation.kind == "pixel_drawn":
        made = [cache.batch("drawn", [index], torch.tensor([draw])) for draw in range(cache.draws)]
    elif degradation.kind == "pixel":
        made = [enlarged]
    else:
        noise = torch.randn(high.shape, generator=torch.Generator().manual_seed(index))
        made = [degraded_latent(high, degradation, noise)]
    return degradation_figures(torch.cat(made), high, enlarged)


def degradation_figures(degraded: Tensor, true: Tensor, enlarged: Tensor) -> dict[str, float]:
    """`FIGURES` of latents of one shape: degraded ones, true ones, and those of really enlarged pictures."""

    def distance(one: Tensor, other: Tensor) -> float:
        return float((one - other).square().mean())

    pairs = ((degraded, true), (enlarged, true), (degraded, enlarged))
    return dict(zip(FIGURES, (distance(*pair) for pair in pairs), strict=True))
