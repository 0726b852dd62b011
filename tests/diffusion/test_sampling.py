"""Guidance, the solvers, the first frame."""

from itertools import product

import pytest
import torch
from torch import Tensor

from vibe_pipeline.diffusion.flow import add_noise, evaluated, guides, noise_levels, sigma_schedule
from vibe_pipeline.diffusion.objectives import Predict
from vibe_pipeline.diffusion.sampling import denoise, guided, make_solver


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

    result = denoise(field, start, sigmas, on_step=lambda: ticks.append(1))
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


@pytest.mark.parametrize(("interval", "guided_at"), [(None, 4), ((0.0, 1.0), 4), ((0.5, 0.8), 2), ((0.9, 0.95), 0)])
def test_guidance_in_an_interval_runs_the_prompts_pass_alone_elsewhere(interval, guided_at: int) -> None:
    """At 0.25, 0.5, 0.75 and 1; what runs, and what the plan counts."""
    free_calls = []

    def unconditional(x: Tensor, sigma: Tensor) -> Tensor:
        free_calls.append(float(sigma[0]))
        return torch.full_like(x, 1.0)

    predict = guided(lambda x, sigma: torch.full_like(x, 3.0), unconditional, 5.0, interval)
    levels = noise_levels(4, 1.0)
    for sigma in levels:
        value = predict(torch.zeros(2, 1, 1, 2, 2), torch.full((2,), sigma))
        inside = interval is None or interval[0] <= sigma <= interval[1]
        torch.testing.assert_close(value, torch.full_like(value, 11.0 if inside else 3.0))
    assert len(free_calls) == guided_at == sum(guides(sigma, 5.0, interval) for sigma in levels)
    assert not any(guides(sigma, 1.0, interval) for sigma in levels)


@pytest.mark.parametrize(("interval", "guided_at"), [(None, 8), ((0.5, 0.8), 3), ((0.1, 0.2), 1)])
def test_a_midpoint_is_guided_where_it_lies(interval, guided_at: int) -> None:
    """Steps at 0.25, 0.5, 0.75 and 1, midpoints an eighth below each."""
    bound_calls, free_calls = [], []

    def counted(calls: list[float]) -> Predict:
        def predict(x: Tensor, sigma: Tensor) -> Tensor:
            calls.append(float(sigma[0]))
            return torch.ones_like(x)

        return predict

    predict = guided(counted(bound_calls), counted(free_calls), 5.0, interval)
    denoise(predict, torch.zeros(2, 1, 1, 2, 2), sigma_schedule(4, 1.0), "midpoint")
    asked = evaluated(noise_levels(4, 1.0), midpoint=True)
    assert sorted(bound_calls) == sorted(asked) and len(free_calls) == guided_at
    assert guided_at == sum(guides(sigma, 5.0, interval) for sigma in asked)
    assert evaluated((1.0, 0.5), midpoint=False) == (1.0, 0.5)


def test_a_plans_noise_levels_are_the_samplers() -> None:
    for steps, shift, strength, mode in product((1, 7, 16, 50), (1.0, 5.0), (0.7, 1.0), ("all_steps", "truncated")):
        if int(strength * steps):
            levels = noise_levels(steps, shift, strength, mode)
            torch.testing.assert_close(torch.tensor(levels), sigma_schedule(steps, shift, strength, mode)[:-1])


def test_a_latent_that_is_not_finite_names_its_step() -> None:
    calls = []

    def field(x: Tensor, sigma: Tensor) -> Tensor:
        calls.append(1)
        return x / (0.0 if len(calls) == 2 else 1.0)

    with pytest.raises(FloatingPointError, match="after step 2 of 4"):
        denoise(field, torch.ones(1, 1, 1, 2, 2), sigma_schedule(4, 1.0))


def gaussian_field(x: Tensor, sigma: Tensor, spread: float = 1.5) -> Tensor:
    """E[eps - x0 | x] for x0 ~ N(0, spread^2): the flow scales pure noise by `spread`, exactly."""
    s = sigma.view(-1, 1, 1, 1, 1)
    return x * (s - (1 - s) * spread**2) / (s**2 + (1 - s) ** 2 * spread**2)


@pytest.mark.parametrize("start", [1.0, 0.6])
def test_unipc_is_far_closer_than_euler_at_the_same_steps(start: float) -> None:
    sigmas = sigma_schedule(12, 3.0, start)
    first = float(sigmas[0])
    noise = torch.randn(4, 2, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    x = noise * (first**2 + (1 - first) ** 2 * 2.25) ** 0.5
    errors = {n: float((denoise(gaussian_field, x, sigmas, n) - 1.5 * noise).abs().max()) for n in ("euler", "unipc")}
    assert errors["unipc"] < errors["euler"] / 4
    assert errors["euler"] < 0.9


def test_midpoint_is_rf_solvers_step_and_of_second_order() -> None:
    """x + D v + (D^2 / 2) (v_mid - v) / (D / 2), as published; half the step, a third of the error or less."""
    generator, errors = torch.Generator().manual_seed(0), []
    noise = torch.randn(1, 3, 2, 4, 4, generator=generator)
    sigmas = sigma_schedule(1, 3.0)[:1].repeat(2)
    sigmas[1] = 0.6
    v, width = gaussian_field(noise, sigmas[:1]), sigmas[1] - sigmas[0]
    middle = gaussian_field(noise + width / 2 * v, sigmas[:1] + width / 2)
    published = noise + width * v + width**2 / 2 * (middle - v) / (width / 2)
    torch.testing.assert_close(denoise(gaussian_field, noise, sigmas, "midpoint"), published)
    for steps in (4, 8, 16):
        found = denoise(gaussian_field, noise, sigma_schedule(steps, 1.0), "midpoint")
        errors.append(float((found - 1.5 * noise).abs().max()))
    assert errors[0] > 3 * errors[1] > 9 * errors[2] > 0
    euler = denoise(gaussian_field, noise, sigma_schedule(8, 1.0))
    assert errors[0] < float((euler - 1.5 * noise).abs().max()), "at as many evaluations"
    with pytest.raises(ValueError, match="between steps: give predict"):
        make_solver("midpoint", sigmas)


def test_midpoint_holds_the_first_frame_between_steps_too() -> None:
    frame, seen = torch.full((1, 3, 1, 4, 4), 7.0), []

    def field(x: Tensor, sigma: Tensor) -> Tensor:
        seen.append((x[:, :, :1], float(sigma[0])))
        return x

    denoise(field, torch.ones(1, 3, 2, 4, 4), sigma_schedule(2, 1.0), "midpoint", first_frame=frame)
    assert [level for _, level in seen] == pytest.approx([1, 0.75, 0.5, 0.25])
    assert all(torch.equal(x, frame) for x, _ in seen)


def test_an_unknown_scheduler_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown scheduler 'ddim'"):
        make_solver("ddim", sigma_schedule(2, 1.0))


@pytest.mark.parametrize("scheduler", ["euler", "unipc"])
def test_the_first_frame_is_held_and_the_model_sees_it_clean(scheduler: str) -> None:
    condition = torch.full((1, 2, 1, 3, 3), 7.0)
    seen = []

    def field(x: Tensor, sigma: Tensor) -> Tensor:
        seen.append(x[:, :, :1].clone())
        return gaussian_field(x, sigma)

    x = torch.randn(1, 2, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    held = denoise(field, x, sigma_schedule(3, 3.0), scheduler, first_frame=condition)
    assert all(torch.equal(frame, condition) for frame in [*seen, held[:, :, :1]])
    free = denoise(gaussian_field, x, sigma_schedule(3, 3.0), scheduler)
    torch.testing.assert_close(held[:, :, 1:], free[:, :, 1:])
