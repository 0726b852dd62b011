"""The paper's training objectives; each function is its equation, each name an entry of `OBJECTIVES`.

`predict(x_sigma, sigma)` returns the velocity [B, C, T, H, W]; x0, degraded and noise are [B, C, T, H, W], sigma and
weight [B]; the result is the mean over the batch. Source: the authors' published training code; the reading
of the ablation "without x0 loss" is ours.

To add an objective, write its equation and one entry of `OBJECTIVES`: a row of `adapters` can then weigh it by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vibe_pipeline.diffusion.bridge import Form, bridge_start
from vibe_pipeline.diffusion.flow import add_noise

if TYPE_CHECKING:  # rows of parameters are checked against `OBJECTIVES`, for which torch need not be loaded
    from torch import Tensor

Predict = Callable[["Tensor", "Tensor"], "Tensor"]


def degrade(x0: Tensor, factor: float = 0.5, mode: str = "trilinear") -> Tensor:
    """Shrink a latent by `factor` and enlarge it back, in space only.

    Args:
        x0: Latent [B, C, T, H, W].
        factor: In (0, 1).
        mode: "trilinear" (align_corners=False, as published) or "nearest".

    Raises:
        ValueError: The latent is not 5-D, or would shrink to nothing.
    """
    if x0.ndim != 5:
        raise ValueError(f"expected a latent [B, C, T, H, W], got shape {tuple(x0.shape)}")
    t, h, w = x0.shape[-3:]
    small = (t, int(h * factor), int(w * factor))
    if not 0 < factor < 1 or min(small) < 1:
        raise ValueError(f"factor {factor} makes a {h} x {w} latent {small[1]} x {small[2]}; give one in (0, 1)")
    import torch.nn.functional as F

    corners = {} if mode == "nearest" else {"align_corners": False}
    shrunk = F.interpolate(x0, size=small, mode=mode, **corners)
    return F.interpolate(shrunk, size=(t, h, w), mode=mode, **corners)


def blur(x0: Tensor, kernel: int = 5, sigma: float = 1.0) -> Tensor:
    """Each frame of a latent convolved with a normalised Gaussian, mirrored at its edges as torchvision's blur does.

    A sum of shifted copies and not a convolution, which autocast would do in 16 bit.

    Args:
        x0: Latent [B, C, T, H, W]; 16 bit are summed in 32, and come back as they were.
        kernel: Side of the window in cells of the latent, odd.
        sigma: Of the Gaussian, in cells.

    Raises:
        ValueError: The latent is not 5-D, or too small to be mirrored.
    """
    if x0.ndim != 5:
        raise ValueError(f"expected a latent [B, C, T, H, W], got shape {tuple(x0.shape)}")
    reach, (h, w) = kernel // 2, x0.shape[-2:]
    if reach >= min(h, w):
        raise ValueError(f"kernel {kernel} reaches {reach} cells beyond a {h} x {w} latent: give a smaller one")
    import torch
    import torch.nn.functional as F

    taps = [math.exp(-0.5 * (i / sigma) ** 2) for i in range(-reach, reach + 1)]
    wide = x0.to(torch.promote_types(x0.dtype, torch.float32)).flatten(0, 2)
    x = F.pad(wide, (reach, reach, reach, reach), mode="reflect")
    for axis, length in ((-2, h), (-1, w)):
        shifted = (x.narrow(axis, start, length) for start in range(kernel))
        blurred = torch.zeros_like(x.narrow(axis, 0, length))
        for copy, tap in zip(shifted, taps, strict=True):
            blurred.add_(copy, alpha=tap / sum(taps))
        x = blurred
    return x.view(x0.shape).to(x0.dtype)


def velocity_loss(predict: Predict, x0: Tensor, noise: Tensor, sigma: Tensor, weight: Tensor | None = None) -> Tensor:
    """w(sigma) ||v - (eps - x0)||^2: stage 1, and naive tuning."""
    velocity = predict(add_noise(x0, noise, sigma), sigma)
    return _weighted_mean((velocity - (noise - x0)).float().square(), weight)


def hfato_loss(
    predict: Predict, x0: Tensor, degraded: Tensor, noise: Tensor, sigma: Tensor, weight: Tensor | None = None
) -> Tensor:
    """w(sigma) ||(x_sigma - sigma v) - x0||^2 with x_sigma made from the DEGRADED latent: stage 2.

    Where nothing is degraded this is sigma^2 times the velocity loss.
    """
    x_sigma = add_noise(degraded, noise, sigma)
    x0_hat = x_sigma - sigma.view(-1, 1, 1, 1, 1) * predict(x_sigma, sigma)
    return _weighted_mean((x0_hat - x0).float().square(), weight)


def degraded_velocity_loss(
    predict: Predict, degraded: Tensor, noise: Tensor, sigma: Tensor, weight: Tensor | None = None
) -> Tensor:
    """The ablation "without x0 loss": degradation without clean supervision, the velocity loss towards it."""
    return velocity_loss(predict, degraded, noise, sigma, weight)


def bridge_loss(
    predict: Predict,
    x0: Tensor,
    degraded: Tensor,
    noise: Tensor,
    sigma: Tensor,
    sigma_start: Tensor,
    weight: Tensor | None = None,
) -> Tensor:
    """w ||v - (x_start - x0) / sigma_start||^2 on the straight way from x_start, the noised degraded latent, to x0.

    With u = sigma / sigma_start: x_start = (1 - sigma_start) degraded + sigma_start noise, x_sigma = (1 - u) x0 +
    u x_start, so that dx/dsigma is the target, and x_start is what the second pass starts from. Where nothing is
    degraded this is the velocity loss. FlashVideo's (arXiv 2502.05179, temp_train) in Wan's noise levels; this form is
    ours.

    Args:
        predict: Gives the velocity of (x_sigma, sigma).
        x0: Clean latents [B, C, T, H, W].
        degraded: Latents of the small picture, enlarged; of that shape.
        noise: Standard normal, of that shape.
        sigma: Noise levels [B], in (0, sigma_start].
        sigma_start: Where the second pass starts, [B], in (0, 1).
        weight: w, [B]; None: 1.
    """
    start = bridge_start(degraded, noise, sigma_start, "wan")
    way = (start - x0) / sigma_start.view(-1, *[1] * (x0.ndim - 1)).to(x0)
    velocity = predict(add_noise(x0, start, sigma / sigma_start), sigma)
    return _weighted_mean((velocity - way).float().square(), weight)


def literal_bridge_loss(
    predict: Predict,
    x0: Tensor,
    degraded: Tensor,
    noise: Tensor,
    sigma: Tensor,
    sigma_start: Tensor,
    weight: Tensor | None = None,
) -> Tensor:
    """The same way as published: the velocity loss whose noise is x_start, of unit variance, at levels of (0, 1]."""
    return velocity_loss(predict, x0, bridge_start(degraded, noise, sigma_start, "literal"), sigma, weight)


def star_loss(
    predict: Predict, x0: Tensor, noise: Tensor, sigma: Tensor, weight: Tensor | None = None, beta: float = 1.0
) -> Tensor:
    """The velocity loss, and STAR's dynamic-frequency loss on the predicted clean latent, in one forward.

    w ||v - (eps - x0)||^2 + 0.01 beta (1 - sigma) [sigma^2 L1(low) + (1 - sigma^2) L1(high)],
    x0_hat = x_sigma - sigma v: early, while it is noisy, structure is asked for, late detail. L1 is the mean modulus of
    what `split_spectrum` gives of x0_hat - x0. STAR (arXiv 2501.02976, NJU-PCALab/STAR) decodes x0_hat without a
    gradient, so its released term teaches nothing, and splits by magnitude; here it is the latent, split by frequency,
    with its gradient.
    """
    x_sigma = add_noise(x0, noise, sigma)
    velocity = predict(x_sigma, sigma)
    s = sigma.view(-1, *[1] * (x0.ndim - 1))
    low, high = split_spectrum((x_sigma - s * velocity - x0).float())
    share = sigma.square()
    frequency = share * low.abs().flatten(1).mean(1) + (1 - share) * high.abs().flatten(1).mean(1)
    plain = _weighted_mean((velocity - (noise - x0)).float().square(), weight)
    return plain + 0.01 * beta * ((1 - sigma) * frequency).mean()


def split_spectrum(x: Tensor, cutoff: float = 0.5, sharpness: float = 10.0) -> tuple[Tensor, Tensor]:
    """Low and high frequencies of each frame of x [B, C, T, H, W], complex [B, C, T, H, W // 2 + 1]; their sum is all.

    Args:
        x: Latents of 32 bit, since the transform takes no 16-bit numbers.
        cutoff: Radius where both have a half, as a share of the highest frequency along an axis.
        sharpness: Of the step between them: low has sigmoid(sharpness (cutoff - radius)).
    """
    import torch

    spectrum = torch.fft.rfft2(x, norm="ortho")
    rows = torch.fft.fftfreq(x.shape[-2], 0.5, device=x.device)[:, None]
    columns = torch.fft.rfftfreq(x.shape[-1], 0.5, device=x.device)
    share = torch.sigmoid(sharpness * (cutoff - torch.hypot(rows, columns)))
    return spectrum * share, spectrum * (1 - share)


@dataclass(frozen=True)
class Sample:
    """What a loss is computed from.

    Attributes:
        x0: Clean latents [B, C, T, H, W].
        noise: Of the same shape.
        sigma: Noise levels [B].
        weight: w(sigma) [B]; None weighs all alike.
        degraded: Degraded latents, of the shape of x0; needed by the objectives that say `degrades`.
        sigma_start: [B], how much noise the start of the way holds; needed by the objectives that have a `bridge`.
    """

    x0: Tensor
    noise: Tensor
    sigma: Tensor
    weight: Tensor | None = None
    degraded: Tensor | None = None
    sigma_start: Tensor | None = None


@dataclass(frozen=True)
class Objective:
    """An entry of `OBJECTIVES`.

    Attributes:
        loss: The mean over the batch.
        words: What is learned, in words.
        degrades: It reads the degraded latent.
        bridge: The form of the way from a noised degraded latent that it learns; sigma is then the share of that way.
    """

    loss: Callable[[Predict, Sample], Tensor]
    words: str
    degrades: bool = False
    bridge: Form | None = None


OBJECTIVES: dict[str, Objective] = {
    "velocity": Objective(
        lambda predict, s: velocity_loss(predict, s.x0, s.noise, s.sigma, s.weight),
        "velocity towards the clean latent",
    ),
    "hfato": Objective(
        lambda predict, s: hfato_loss(
            predict=predict, x0=s.x0, degraded=s.degraded, noise=s.noise, sigma=s.sigma, weight=s.weight
        ),
        "clean latent from a degraded one (HFATO)",
        degrades=True,
    ),
    "degraded_velocity": Objective(
        lambda predict, s: degraded_velocity_loss(predict, s.degraded, s.noise, s.sigma, s.weight),
        "velocity towards the degraded latent (without x0 loss)",
        degrades=True,
    ),
    "star": Objective(
        lambda predict, s: star_loss(predict, s.x0, s.noise, s.sigma, s.weight),
        "velocity, with structure asked for while it is noisy and detail when it is clean (STAR)",
    ),
    "bridge": Objective(
        lambda predict, s: bridge_loss(**_way(predict, s) | {"sigma": s.sigma * s.sigma_start}),
        "the way from a noised degraded latent to the clean one, in Wan's noise levels (FlashVideo)",
        degrades=True,
        bridge="wan",
    ),
    "bridge_literal": Objective(
        lambda predict, s: literal_bridge_loss(**_way(predict, s)),
        "the way from a noised degraded latent to the clean one, as FlashVideo publishes it",
        degrades=True,
        bridge="literal",
    ),
}


def _way(predict: Predict, s: Sample) -> dict[str, Any]:
    """What both forms of a bridge take."""
    named = {"x0": s.x0, "degraded": s.degraded, "noise": s.noise, "sigma": s.sigma}
    return named | {"predict": predict, "sigma_start": s.sigma_start, "weight": s.weight}


def degrades(weights: Mapping[str, float]) -> bool:
    """Whether any objective with a weight reads the degraded latent."""
    return any(share and OBJECTIVES[name].degrades for name, share in weights.items())


def bridges(weights: Mapping[str, float]) -> set[Form]:
    """Forms of the bridges among the objectives with a weight."""
    return {form for name, share in weights.items() if share and (form := OBJECTIVES[name].bridge) is not None}


def mixed_loss(weights: Mapping[str, float], predict: Predict, sample: Sample) -> dict[str, Tensor]:
    """The weighted sum of objectives under `loss`, and each unweighted under its name.

    Raises:
        ValueError: A name in `weights` is not an objective, or one needs the degraded latent or the start of a bridge
            and there is none.
    """
    if unknown := sorted(set(weights) - set(OBJECTIVES)):
        raise ValueError(f"unknown objectives {unknown}; known: {', '.join(OBJECTIVES)}")
    if degrades(weights) and sample.degraded is None:
        raise ValueError(f"objectives {sorted(weights)} need the degraded latent: give sample.degraded")
    if bridges(weights) and sample.sigma_start is None:
        raise ValueError(f"objectives {sorted(weights)} need the start of the bridge: give sample.sigma_start")
    parts = {name: OBJECTIVES[name].loss(predict, sample) for name, share in weights.items() if share}
    return {"loss": sum(weights[name] * value for name, value in parts.items())} | parts


def _weighted_mean(error: Tensor, weight: Tensor | None) -> Tensor:
    per_sample = error.flatten(1).mean(1)
    return (per_sample if weight is None else per_sample * weight).mean()
