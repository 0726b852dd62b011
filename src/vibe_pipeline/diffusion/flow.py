"""Rectified flow: sigma in (0, 1], x_sigma = (1 - sigma) x0 + sigma eps, velocity eps - x0.

Sources: the authors' published training code (sampling and weighting of sigma); Wan's schedule shift.

torch is imported inside of what makes tensors: rows of parameters are checked, and plans made, without it.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Literal, TypeVar, get_args

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Level = TypeVar("Level", "Tensor", float)
"""Noise levels: a tensor of them, or one."""

TRAINING_STEPS = 1000
Weighting = Literal["bell", "uniform", "cosmap", "min_snr", "min_snr_x0", "logit_normal"]
"""w(sigma) by name; see :func:`loss_weight`."""
StrengthMode = Literal["all_steps", "truncated"]
"""Which steps a strength below 1 runs; see :func:`sigma_schedule`."""
Levels = tuple[float, ...]
Interval = tuple[float, float]
"""(low, high) of sigma, both included."""


def shift_sigma(u: Level, shift: float) -> Level:
    """sigma' = s u / (1 + (s - 1) u): moves evenly spaced levels towards high noise for s > 1."""
    return shift * u / (1 + (shift - 1) * u)


def unshift_sigma(sigma: Level, shift: float) -> Level:
    """u of which :func:`shift_sigma` makes sigma."""
    return sigma / (shift - (shift - 1) * sigma)


def is_high_noise(sigma: float, boundary: float) -> bool:
    """Whether a level is the high-noise expert's of two: 1000 sigma >= 1000 boundary, as diffusers' WanPipeline has it.

    To a thousandth of a timestep, so that levels of 32 bit and the plan's of 64 fall on the same side.
    """
    return round(1000 * sigma, 3) >= round(1000 * boundary, 3)


def training_grid(shift: float) -> Tensor:
    """The 1000 shifted noise levels training draws from, [1000], from 1 down."""
    import torch

    u = torch.arange(TRAINING_STEPS, 0, -1, dtype=torch.float64) / TRAINING_STEPS
    return shift_sigma(u, shift).float()


def sample_sigma(
    count: int, shift: float, generator: torch.Generator | None = None, below: float | None = None
) -> Tensor:
    """One training sigma per sample, [count]: uniform over 1000 steps, or those of them `below` a level, shifted."""
    import torch

    grid = training_grid(shift)
    if below is not None:
        grid = grid[[not is_high_noise(sigma, below) for sigma in grid.tolist()]]
    return grid[torch.randint(len(grid), (count,), generator=generator)]


def bell_weight(sigma: Tensor, shift: float) -> Tensor:
    """w(sigma), [B]: exp(-2 ((t - 500) / 1000)^2) at t = 1000 sigma, with min 0 and mean 1 over the training grid."""
    import torch

    def bell(s: Tensor) -> Tensor:
        return torch.exp(-2 * (s - 0.5).square())

    grid = bell(training_grid(shift).to(sigma.device))
    return (bell(sigma) - grid.min()) / (grid - grid.min()).mean()


def draw_sigma(
    kind: Literal["uniform_shifted", "logit_normal"],
    count: int,
    shift: float,
    generator: torch.Generator | None = None,
    mean: float = 0.0,
    std: float = 1.0,
    below: float | None = None,
) -> Tensor:
    """Training sigmas by name, [count], in (0, 1], or in (0, below).

    Args:
        kind: `uniform_shifted` is :func:`sample_sigma`; `logit_normal` is the sigmoid of N(mean, std), then shifted
            (Esser et al., arXiv 2403.03206, section 3.1).
        count: One a sample.
        shift: The flow shift s.
        generator: Of the draws.
        mean: Mean of the normal draw, before the sigmoid.
        std: Standard deviation of that draw.
        below: The levels of a low-noise expert end here: the same distribution, given that it falls below. So does
            DiffSynth-Studio train one (its boundary of 0.417 is sigma 0.875 at shift 5).

    Raises:
        ValueError: An unknown kind.
    """
    import torch

    if kind == "uniform_shifted":
        return sample_sigma(count, shift, generator, below)
    if kind == "logit_normal":
        if below is not None:
            share = share_below(kind, shift, below, mean, std)
            drawn = 1 - torch.rand(count, generator=generator, dtype=torch.float64)  # in (0, 1]
            normal = torch.special.ndtri(share * drawn)
            return shift_sigma(torch.sigmoid(mean + std * normal), shift).float()
        normal = torch.randn(count, generator=generator)
        return shift_sigma(torch.sigmoid(mean + std * normal), shift)
    raise ValueError(f"unknown sampling of sigma {kind!r}: use uniform_shifted or logit_normal")


def share_below(
    kind: Literal["uniform_shifted", "logit_normal"], shift: float, below: float, mean: float = 0.0, std: float = 1.0
) -> float:
    """Share of the draws of :func:`draw_sigma` that lie below a level of (0, 1), where all levels are drawn."""
    u = unshift_sigma(below, shift)
    if kind == "uniform_shifted":
        return u
    return (1 + math.erf((math.log(u / (1 - u)) - mean) / (std * math.sqrt(2)))) / 2


def min_snr_weight(sigma: Tensor, shift: float, of_x0: bool, gamma: float = 5.0) -> Tensor:
    """min(SNR, gamma) of an x0 loss, sigma^2 times that of a velocity loss; mean 1 over the training grid, [B].

    SNR = ((1 - sigma) / sigma)^2, and x0_hat - x0 = -sigma (v - v_true). Min-SNR-gamma, arXiv 2303.09556.
    """

    def raw(s: Tensor) -> Tensor:
        snr = ((1 - s) / s).square().clamp(max=gamma)
        return snr if of_x0 else s.square() * snr

    return raw(sigma) / raw(training_grid(shift).to(sigma.device)).mean()


def logit_normal_weight(sigma: Tensor, shift: float, mean: float, std: float) -> Tensor:
    """The density of a logit-normal draw at the level before the shift, [B]; 0 at its ends.

    Levels that are drawn evenly and weighted by it count as those drawn by it do (arXiv 2403.03206, section 3.1).
    """
    u = unshift_sigma(sigma, shift)
    inside = (u > 0) & (u < 1)
    u = u.where(inside, 0.5)
    density = (-0.5 * ((u.logit() - mean) / std).square()).exp() / (std * math.sqrt(2 * math.pi) * u * (1 - u))
    return density.where(inside, 0.0)


def loss_weight(kind: Weighting, sigma: Tensor, shift: float, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """w(sigma) by name, [B].

    Args:
        kind: The paper's `bell`; `uniform` (1); `cosmap` (arXiv 2403.03206, section 3.1); `min_snr` of a velocity
            loss, `min_snr_x0` of an x0 loss such as HFATO; `logit_normal`.
        sigma: Noise levels [B], in [0, 1].
        shift: Of the training levels.
        mean: Of logit_normal, before the sigmoid.
        std: Standard deviation of logit_normal, before the sigmoid.

    Raises:
        ValueError: An unknown kind.
    """
    import torch

    if kind == "bell":
        return bell_weight(sigma, shift)
    if kind == "uniform":
        return torch.ones_like(sigma)
    if kind == "cosmap":
        return 2 / (math.pi * (1 - 2 * sigma + 2 * sigma.square()))
    if kind in ("min_snr", "min_snr_x0"):
        return min_snr_weight(sigma, shift, of_x0=kind == "min_snr_x0")
    if kind == "logit_normal":
        return logit_normal_weight(sigma, shift, mean, std)
    raise ValueError(f"unknown loss weighting {kind!r}: use one of {', '.join(get_args(Weighting))}")


def add_noise(x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """x_sigma = (1 - sigma) x0 + sigma noise, for x0 and noise [B, C, T, H, W] and sigma [B]."""
    s = sigma.view(-1, *[1] * (x0.ndim - 1)).to(x0)
    return (1 - s) * x0 + s * noise


def schedule_steps(steps: int, strength: float = 1.0, strength_mode: StrengthMode = "all_steps") -> int:
    """How many steps :func:`sigma_schedule` gives for the same arguments.

    Raises:
        ValueError: As :func:`sigma_schedule`.
    """
    if not 0 < strength <= 1:
        raise ValueError(f"strength must be in (0, 1], got {strength}")
    if strength_mode != "truncated":
        return steps
    if (kept := int(strength * steps)) < 1:
        raise ValueError(f"strength {strength} of {steps} steps leaves none: raise either")
    return kept


def sigma_schedule(
    steps: int, shift: float, strength: float = 1.0, strength_mode: StrengthMode = "all_steps"
) -> Tensor:
    """Noise levels of a sampler, from sigma_start = shift(strength) down to 0.

    Args:
        steps: Denoising steps from pure noise to the clean latent.
        shift: The flow shift s.
        strength: Share of the unshifted schedule to run; 1 starts from pure noise.
        strength_mode: "all_steps" runs every step from sigma_start (as the authors do); "truncated" runs the last
            floor(strength x steps) of a full schedule (as diffusers' video-to-video does).

    Returns:
        [n + 1] sigmas; the last is 0.

    Raises:
        ValueError: `strength` outside (0, 1], or a share that leaves no step.
    """
    import torch

    kept = schedule_steps(steps, strength, strength_mode)
    if strength_mode == "truncated":
        u = torch.linspace(1, 0, steps + 1, dtype=torch.float64)[steps - kept :]
    else:
        u = torch.linspace(strength, 0, steps + 1, dtype=torch.float64)
    return shift_sigma(u, shift).float()


def noise_levels(steps: int, shift: float, strength: float = 1.0, strength_mode: StrengthMode = "all_steps") -> Levels:
    """The same levels as numbers, for a plan, which has no torch: all but the 0 at the end, to 32 bit's last digits.

    Raises:
        ValueError: As :func:`sigma_schedule`.
    """
    kept = schedule_steps(steps, strength, strength_mode)
    begin = 1.0 if strength_mode == "truncated" else strength
    return tuple(float(shift_sigma(begin * (steps - i) / steps, shift)) for i in range(steps - kept, steps))


def evaluated(levels: Levels, midpoint: bool) -> Levels:
    """Levels at which a solver asks for the velocity: its steps' own, and with the midpoint those between two."""
    between = zip(levels, (*levels[1:], 0.0), strict=True)
    return (*levels, *((one + other) / 2 for one, other in between)) if midpoint else levels


def guides(sigma: float, scale: float, interval: Interval | None) -> bool:
    """Whether a step at a noise level runs both guidance passes (arXiv 2404.07724: in an interval alone)."""
    return scale != 1 and (interval is None or interval[0] <= sigma <= interval[1])


def seeded_noise(shape: tuple[int, ...], prompt: str, seed: int) -> Tensor:
    """Gaussian noise that depends on (prompt, seed) alone, drawn on the CPU so that every device gets the same.

    The prompt is mixed in because arms are compared over prompts: one noise for all of them would make the
    prompts' errors depend on each other.
    """
    import torch

    return torch.randn(shape, generator=seeded_generator(prompt, seed))


def seeded_generator(prompt: str, seed: int) -> torch.Generator:
    """Draws on the CPU that depend on (prompt, seed) alone."""
    import torch

    digest = hashlib.sha256(f"{seed}\n{prompt}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") % 2**63)
