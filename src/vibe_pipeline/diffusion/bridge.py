"""FlashVideo's second stage (arXiv 2502.05179): few steps from a noised small clip to the large one.

Its path goes from x_start, the enlarged clip z_LR with noise in it, straight to the large clip z_HR. How much noise is
said by a step k of a DDPM of zero terminal signal: x_start = a_k z_LR + sqrt(1 - a_k^2) n. In a rectified flow the same
ratio of signal to noise is sigma = sqrt(1 - a_k^2) / (a_k + sqrt(1 - a_k^2)), which is how both forms here take it:

wan       x_start = (1 - sigma_start) z_LR + sigma_start n, levels sigma from sigma_start down to 0: what Wan was
          trained on, and where nothing is degraded the plain velocity objective (this form is ours).
literal   x_start of unit variance, levels from 1 down to 0, as published: the network is told "pure noise" at a start
          that holds signal.

Source: FoundationVision/FlashVideo, branches main (sampler) and temp_train (loss), Apache-2.0.
torch is imported where tensors are made: rows of parameters are checked without it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from vibe_pipeline.diffusion.flow import Levels, add_noise, shift_sigma

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Form = Literal["wan", "literal"]
DDPM_STEPS = 1000
BETAS = (0.00085, 0.012)
"""First and last beta of the DDPM, linear in their square roots."""
SHIFT = 2.5
"""Of the published sampler, which takes 4 to 6 steps."""


def ddpm_signals() -> list[float]:
    """a_k = sqrt(alpha_bar_k) of every DDPM step k, scaled so that the last holds no signal (675: 0.2640)."""
    first, last = (math.sqrt(beta) for beta in BETAS)
    signals, kept = [], 1.0
    for k in range(DDPM_STEPS):
        kept *= 1 - (first + (last - first) * k / (DDPM_STEPS - 1)) ** 2
        signals.append(math.sqrt(kept))
    scale = signals[0] / (signals[0] - signals[-1])
    return [(signal - signals[-1]) * scale for signal in signals]


def start_sigmas(first: int, last: int) -> list[float]:
    """sigma of the same signal-to-noise ratio as each DDPM step from `first` to `last` (675: 0.785).

    Raises:
        ValueError: A step is not one of the DDPM's, or the last comes before the first.
    """
    if not 0 <= first <= last < DDPM_STEPS:
        raise ValueError(f"steps {first} to {last} are not a range of the DDPM's, 0 to {DDPM_STEPS - 1}")
    signals = ddpm_signals()[first : last + 1]
    return [math.sqrt(1 - a * a) / (a + math.sqrt(1 - a * a)) for a in signals]


def draw_start_sigma(steps: tuple[int, int], count: int, generator: torch.Generator) -> Tensor:
    """sigma_start of `count` images, [count]: each of a DDPM step drawn uniformly, the ends included."""
    import torch

    levels = torch.tensor(start_sigmas(*steps))
    return levels[torch.randint(len(levels), (count,), generator=generator)]


def bridge_start(degraded: Tensor, noise: Tensor, sigma_start: Tensor, form: Form) -> Tensor:
    """x_start [B, C, T, H, W] of degraded latents and noise of that shape, at sigma_start [B].

    Raises:
        ValueError: An unknown form.
    """
    if form not in ("wan", "literal"):
        raise ValueError(f"unknown form of bridge {form!r}: use wan or literal")
    mixed = add_noise(degraded, noise, sigma_start)
    if form == "wan":
        return mixed
    length = ((1 - sigma_start).square() + sigma_start.square()).sqrt()
    return mixed / length.view(-1, *[1] * (mixed.ndim - 1)).to(mixed)


def bridge_levels(steps: int, sigma_start: float, form: Form, shift: float = SHIFT) -> Levels:
    """Noise levels of the sampler, evenly spaced and shifted, from the start of the path; all but the 0 at its end.

    Args:
        steps: Of the sampler; 4 to 6 as published.
        sigma_start: Of a `wan` form, the first level; a `literal` one starts at 1.
        form: Of the path.
        shift: The flow shift, of the way that is left.
    """
    first = sigma_start if form == "wan" else 1.0
    return tuple(first * shift_sigma((steps - i) / steps, shift) for i in range(steps))


def bridge_schedule(steps: int, sigma_start: float, form: Form, shift: float = SHIFT) -> Tensor:
    """The same levels and the 0, [steps + 1]."""
    import torch

    return torch.tensor((*bridge_levels(steps, sigma_start, form, shift), 0.0))
