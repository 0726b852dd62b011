"""Sampling: classifier-free guidance and solvers of the rectified flow."""

from collections.abc import Callable
from typing import Literal

import torch
from diffusers import UniPCMultistepScheduler
from torch import Tensor
from torch.nn.functional import interpolate

from vibe_pipeline.diffusion.flow import Interval, guides
from vibe_pipeline.diffusion.objectives import Predict

Scheduler = Literal["euler", "unipc", "midpoint"]
Solver = Callable[[Tensor, int, Tensor], Tensor]
"""(velocity, step, x at sigmas[step]) to x at sigmas[step + 1]; called once a step, in order."""


def guided(conditional: Predict, unconditional: Predict, scale: float, interval: Interval | None = None) -> Predict:
    """v_uncond + scale (v_cond - v_uncond); at scale 1, and outside of an interval of sigma, v_cond alone."""
    if scale == 1:
        return conditional

    def predict(x: Tensor, sigma: Tensor) -> Tensor:
        """Of latents [B, C, T, H, W] at the levels [B], which are the same for all."""
        if interval is not None and not guides(float(sigma[0]), scale, interval):
            return conditional(x, sigma)
        free = unconditional(x, sigma)
        return free + scale * (conditional(x, sigma) - free)

    return predict


def make_solver(name: Scheduler, sigmas: Tensor, predict: Predict | None = None) -> Solver:
    """A solver of dx = v dsigma over `sigmas` [n + 1].

    Args:
        name: euler, first order; unipc, diffusers' multistep predictor-corrector of second order, Wan's default;
            midpoint, second order by one more evaluation a step.
        sigmas: Falling, the last 0; see `flow.sigma_schedule`.
        predict: The velocity, for midpoint, which asks for it between steps.

    Raises:
        ValueError: Unknown name, or midpoint without `predict`.
    """
    if name == "euler":
        return lambda velocity, i, x: x + (sigmas[i + 1] - sigmas[i]).to(x.device) * velocity
    if name == "midpoint":
        return _midpoint(sigmas, predict)
    if name != "unipc":
        raise ValueError(f"unknown scheduler {name!r}: use 'euler', 'unipc' or 'midpoint'")
    # The sigmas are shifted already: the scheduler's own shift is 1.
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0)
    scheduler.set_timesteps(sigmas=sigmas[:-1].double().numpy())
    scheduler.set_begin_index(0)
    return lambda velocity, i, x: scheduler.step(velocity, scheduler.timesteps[i], x, return_dict=False)[0]


def _midpoint(sigmas: Tensor, predict: Predict | None) -> Solver:
    """x + D v(x + D/2 v, sigma + D/2), D the step in sigma.

    RF-Solver (arXiv 2411.04746, wangjiangshan0725/RF-Solver-Edit) takes x + D v + D^2/2 (v_mid - v) / (D/2), which is
    the same.
    """
    if predict is None:
        raise ValueError("scheduler midpoint evaluates the velocity between steps: give predict")

    def step(velocity: Tensor, i: int, x: Tensor) -> Tensor:
        half = ((sigmas[i + 1] - sigmas[i]) / 2).to(x.device)
        level = sigmas[i].to(x.device) + half
        return x + 2 * half * predict(x + half * velocity, level.expand(len(x)))

    return step


@torch.inference_mode()
def denoise(
    predict: Predict,
    x: Tensor,
    sigmas: Tensor,
    scheduler: Scheduler = "euler",
    on_step: Callable[[], object] | None = None,
    first_frame: Tensor | None = None,
) -> Tensor:
    """Integrate dx = v dsigma from noise to data.

    Args:
        predict: Velocity of x [B, C, T, H, W] at sigma [B].
        x: The latent at `sigmas[0]`.
        sigmas: [n + 1], falling; see `flow.sigma_schedule`.
        scheduler: See `make_solver`.
        on_step: Called after each step (a progress bar's `update`).
        first_frame: Clean latent [B, C, 1, H, W] that the first frame is held at (image to video).

    Returns:
        The latent at `sigmas[-1]`.

    Raises:
        FloatingPointError: The latent became NaN or infinite; the message says at which step.
    """

    def velocity(latent: Tensor, sigma: Tensor) -> Tensor:
        return predict(hold_first_frame(latent, first_frame), sigma)

    solve = make_solver(scheduler, sigmas, velocity)
    for i in range(len(sigmas) - 1):
        x = solve(velocity(x, sigmas[i].expand(len(x)).to(x.device)), i, x)
        if not torch.isfinite(x).all():
            raise FloatingPointError(
                f"the latent is not finite after step {i + 1} of {len(sigmas) - 1}, at sigma {float(sigmas[i]):.3f}"
            )
        if on_step is not None:
            on_step()
    return hold_first_frame(x, first_frame)


def resize_latents(latents: Tensor, height: int, width: int) -> Tensor:
    """Latents [B, C, T, h, w] at another size, bilinearly frame by frame.

    Over a time axis that stays as it is, trilinear interpolation (CineScale's first release) is the same as bilinear
    (its second).
    """
    return interpolate(latents, (latents.shape[2], height, width), mode="trilinear", align_corners=False)


def hold_first_frame(x: Tensor, first_frame: Tensor | None) -> Tensor:
    """x [B, C, T, H, W] with its first latent frame replaced by the condition [B, C, 1, H, W], if there is one."""
    return x if first_frame is None else torch.cat([first_frame.to(x), x[:, :, 1:]], 2)
