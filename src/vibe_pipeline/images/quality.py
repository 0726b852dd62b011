"""The degradation check: does stage 2 learn the map that inference needs?"""

from typing import Any

import pandas as pd

from vibe_pipeline.diffusion.objectives import degrade
from vibe_pipeline.images.cache import LatentCache


def degradation_check(manifest: dict[str, Any], factor: float = 0.5) -> pd.DataFrame:
    """Compare the degraded latents with the true ones, on the held-out images.

    At inference the model is fed the latent of a really enlarged native picture. If the degraded latent is much
    further from the truth than that one, stage 2 learns to undo a damage that it will never meet.

    Returns:
        One row per kind (latent, pixel): mse_degraded (degraded against true), mse_upsampled (really enlarged
        against true), mse_between (degraded against really enlarged), all per latent element of unit
        variance, mean over images.
    """
    cache = LatentCache(manifest, held_out=True)
    rows = []
    for index in range(len(cache)):  # one at a time: buckets differ in shape
        high, enlarged = cache.batch("high", [index]), cache.batch("pixel", [index])
        for kind, degraded in (("latent", degrade(high, factor)), ("pixel", enlarged)):
            rows.append(
                {
                    "kind": kind,
                    "mse_degraded": float((degraded - high).square().mean()),
                    "mse_upsampled": float((enlarged - high).square().mean()),
                    "mse_between": float((degraded - enlarged).square().mean()),
                }
            )
    return pd.DataFrame(rows).groupby("kind", as_index=False).mean()
