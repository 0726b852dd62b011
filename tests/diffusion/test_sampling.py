"""Guidance and the Euler solver."""

import pytest
import torch
from torch import Tensor

from vibe_pipeline.diffusion.flow import add_noise, sigma_schedule
from vibe_pipeline.diffusion.sampling import denoise, guided


@pytest.mark.parametrize(("steps", "shift", "strength"), [(1, 1.0, 1.0), (4, 5.0, 1.0), (7, 3.0, 0.6)])
def test_a_straight_field_leads_to_the_exact_answer(steps: int, shift: float, strength: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(2, 3, 2, 4, 4, generator=generator) for _ in range(2))
    sigmas = sigma_schedule(steps, shift, strength)
    start = add_noise(x0, noise, sigmas[0].expand(2))
    levels, ticks = [], []

    def field(x: Tensor, sigma: Tensor) -> Tensor:
        levels.append(sigma)
        return (x - x0) / sigma.view(-1, 1, 1, 1, 1)

    result = denoise(field, start, sigmas, lambda: ticks.append(1))
    torch.testing.assert_close(result, x0, rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.stack(levels), sigmas[:-1, None].expand(-1, 2))
    assert len(ticks) == steps


@pytest.mark.parametrize(("scale", "expected"), [(1.0, 3.0), (2.0, 5.0), (5.0, 11.0)])
def test_guidance_moves_away_from_the_unconditional_velocity(scale: float, expected: float) -> None:
    free_calls = []

    def conditional(x: Tensor, sigma: Tensor) -> Tensor:
        return torch.full_like(x, 3.0)

    def unconditional(x: Tensor, sigma: Tensor) -> Tensor:
        free_calls.append(1)
        return torch.full_like(x, 1.0)

    velocity = guided(conditional, unconditional, scale)(torch.zeros(1, 1, 1, 2, 2), torch.ones(1))
    torch.testing.assert_close(velocity, torch.full_like(velocity, expected))
    assert len(free_calls) == (0 if scale == 1 else 1)


def test_a_latent_that_is_not_finite_names_its_step() -> None:
    calls = []

    def field(x: Tensor, sigma: Tensor) -> Tensor:
        calls.append(1)
        return x / (0.0 if len(calls) == 2 else 1.0)

    with pytest.raises(FloatingPointError, match="after step 2 of 4"):
        denoise(field, torch.ones(1, 1, 1, 2, 2), sigma_schedule(4, 1.0))
