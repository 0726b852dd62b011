"""Sampling: classifier-free guidance and an Euler solver of the rectified flow."""

from collections.abc import Callable

import torch
from torch import Tensor

from vibe_pipeline.diffusion.objectives import Predict


def guided(conditional: Predict, unconditional: Predict, scale: float) -> Predict:
    """v_uncond + scale (v_cond - v_uncond); at scale 1 the unconditional pass is not run."""
    if scale == 1:
        return conditional

    def predict(x: Tensor, sigma: Tensor) -> Tensor:
        free = unconditional(x, sigma)
        return free + scale * (conditional(x, sigma) - free)

    return predict


@torch.inference_mode()
def denoise(predict: Predict, x: Tensor, sigmas: Tensor, on_step: Callable[[], object] | None = None) -> Tensor:
    """Integrate dx = v dsigma by Euler steps.

    Args:
        predict: Velocity of x [B, C, T, H, W] at sigma [B].
        x: The latent at `sigmas[0]`.
        sigmas: [n + 1], falling; see `flow.sigma_schedule`.
        on_step: Called after each step (a progress bar's `update`).

    Returns:
        The latent at `sigmas[-1]`.

    Raises:
        FloatingPointError: The latent became NaN or infinite; the message says at which step.
    """
    for i in range(len(sigmas) - 1):
        level = sigmas[i].expand(len(x)).to(x.device)
        x = x + (sigmas[i + 1] - sigmas[i]).to(x.device) * predict(x, level)
        if not torch.isfinite(x).all():
            raise FloatingPointError(
                f"the latent is not finite after step {i + 1} of {len(sigmas) - 1}, at sigma {float(sigmas[i]):.3f}"
            )
        if on_step is not None:
            on_step()
    return x
