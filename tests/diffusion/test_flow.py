"""Rectified flow: noise levels, their weights, schedules, noise."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanVideoToVideoPipeline
from diffusers.training_utils import compute_density_for_timestep_sampling, compute_loss_weighting_for_sd3

from vibe_pipeline.diffusion.flow import (
    add_noise,
    bell_weight,
    draw_sigma,
    is_high_noise,
    loss_weight,
    sample_sigma,
    seeded_noise,
    share_below,
    shift_sigma,
    sigma_schedule,
    training_grid,
)


@pytest.mark.parametrize(
    ("strength", "shift", "start"),
    [(0.7, 5.0, 0.92105), (1.0, 5.0, 1.0), (0.7, 1.0, 0.7), (0.4, 3.0, 0.66667), (1.0, 9.0, 1.0)],
)
def test_a_schedule_falls_from_the_shifted_strength_to_zero(strength: float, shift: float, start: float) -> None:
    sigmas = sigma_schedule(7, shift, strength)
    assert len(sigmas) == 8
    assert float(sigmas[0]) == pytest.approx(start, abs=1e-5)
    assert float(sigmas[-1]) == 0
    assert bool((sigmas.diff() < 0).all())


@pytest.mark.parametrize(("steps", "strength"), [(50, 0.7), (10, 0.75), (10, 0.25), (100, 0.29), (3, 1.0), (7, 0.5)])
def test_truncated_keeps_the_steps_that_diffusers_keeps(steps: int, strength: float) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    scheduler.set_timesteps(sigmas=torch.linspace(1, 0, steps + 1)[:-1].tolist())
    pipeline = WanVideoToVideoPipeline.__new__(WanVideoToVideoPipeline)
    object.__setattr__(pipeline, "scheduler", scheduler)
    timesteps, kept = pipeline.get_timesteps(steps, scheduler.timesteps, strength, "cpu")
    sigmas = sigma_schedule(steps, 1.0, strength, "truncated")
    assert len(sigmas) - 1 == kept == len(timesteps)
    torch.testing.assert_close(1000 * sigmas[:-1], timesteps)
    torch.testing.assert_close(sigma_schedule(steps, 5.0, strength, "truncated"), shift_sigma(sigmas, 5.0))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"strength": 0.0}, "0.0"),
        ({"strength": 1.2}, "1.2"),
        ({"strength": 0.1, "strength_mode": "truncated"}, "leaves none"),
    ],
)
def test_a_strength_that_cannot_be_is_refused(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sigma_schedule(5, 5.0, **kwargs)


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0])
def test_the_bell_has_minimum_zero_and_mean_one_over_the_grid(shift: float) -> None:
    grid = training_grid(shift)
    weights = bell_weight(grid, shift)
    assert len(grid) == 1000
    assert float(grid[0]) == 1
    assert float(grid.min()) > 0
    assert float(weights.min()) == 0
    assert float(weights.mean()) == pytest.approx(1, abs=1e-5)
    assert float(grid[weights.argmax()]) == pytest.approx(0.5, abs=2e-3)


def test_the_bell_is_the_published_one() -> None:
    sigma = torch.tensor([0.25, 0.5, 0.9])
    timestep = 1000 * sigma
    raw = torch.exp(-2 * ((timestep - 500) / 1000) ** 2)
    low = torch.exp(torch.tensor(-0.5))
    ratio = bell_weight(sigma, 1.0) / (raw - low)
    torch.testing.assert_close(ratio, ratio[:1].expand(3))


def test_training_sigmas_come_from_the_grid_and_repeat_with_the_seed() -> None:
    draws = [sample_sigma(4000, 5.0, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert bool(torch.isin(draws[0], training_grid(5.0)).all())
    # Uniform before the shift: the median u is 1/2, so the median sigma is 5/6.
    assert float(draws[0].median()) == pytest.approx(5 / 6, abs=0.02)


@pytest.mark.parametrize(("mean", "std", "shift"), [(0.0, 1.0, 1.0), (0.5, 0.7, 5.0)])
def test_logit_normal_sigmas_are_those_of_diffusers_then_shifted(mean: float, std: float, shift: float) -> None:
    ours = draw_sigma("logit_normal", 1000, shift, torch.Generator().manual_seed(4), mean, std)
    theirs = compute_density_for_timestep_sampling(
        "logit_normal", 1000, mean, std, generator=torch.Generator().manual_seed(4)
    )
    torch.testing.assert_close(ours, shift * theirs / (1 + (shift - 1) * theirs))
    assert 0 < float(ours.min()) < float(ours.max()) <= 1


def test_sigmas_and_weights_by_name() -> None:
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    sigma = draw_sigma("uniform_shifted", 50, 5.0, generators[0])
    assert torch.equal(sigma, sample_sigma(50, 5.0, generators[1]))
    assert torch.equal(loss_weight("bell", sigma, 5.0), bell_weight(sigma, 5.0))
    assert torch.equal(loss_weight("uniform", sigma, 5.0), torch.ones(50))
    torch.testing.assert_close(loss_weight("cosmap", sigma, 5.0), compute_loss_weighting_for_sd3("cosmap", sigma))
    for draw in (lambda: draw_sigma("lognormal", 1, 1.0), lambda: loss_weight("snr", sigma, 1.0)):
        with pytest.raises(ValueError, match=r"unknown .* '(lognormal|snr)': use"):
            draw()


@pytest.mark.parametrize("shift", [1.0, 5.0])
def test_min_snr_is_its_formula(shift: float) -> None:
    """min(SNR, 5) of an x0 loss, sigma^2 times that of a velocity loss, and mean 1."""
    grid = training_grid(shift)
    raw = [min(((1 - s) / s) ** 2, 5.0) for s in grid.tolist()]
    for kind, expected in (
        ("min_snr_x0", raw),
        ("min_snr", [w * s * s for w, s in zip(raw, grid.tolist(), strict=True)]),
    ):
        found = loss_weight(kind, grid, shift)
        assert float(found.mean()) == pytest.approx(1, rel=1e-4)
        assert found.tolist() == pytest.approx([w * 1000 / sum(expected) for w in expected], rel=1e-3, abs=1e-9)


def test_weighing_by_the_logit_normal_density_is_drawing_by_it() -> None:
    """E over even levels of density x f is E over logit-normal levels of f, whatever the shift."""
    shift, mean, std = 3.0, 0.4, 0.7
    even = shift_sigma((torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000, shift)
    weighed = (loss_weight("logit_normal", even, shift, mean, std) * even.square()).mean()
    drawn = draw_sigma("logit_normal", 400_000, shift, torch.Generator().manual_seed(0), mean, std)
    assert float(weighed) == pytest.approx(float(drawn.square().mean()), abs=2e-3)
    ends = loss_weight("logit_normal", torch.tensor([0.0, 1.0]), shift)
    assert ends.tolist() == [0, 0] and torch.isfinite(loss_weight("logit_normal", training_grid(5.0), 5.0)).all()


def test_noise_is_mixed_in_by_each_samples_sigma() -> None:
    x0, noise = torch.full((2, 1, 1, 2, 2), 2.0), torch.full((2, 1, 1, 2, 2), -1.0)
    mixed = add_noise(x0, noise, torch.tensor([0.0, 0.75]))
    torch.testing.assert_close(mixed[0], x0[0])
    torch.testing.assert_close(mixed[1], torch.full((1, 1, 2, 2), -0.25))


def test_noise_depends_on_prompt_and_seed_alone() -> None:
    shape = (4, 2, 3, 5)
    first = seeded_noise(shape, "a cat", 1)
    torch.manual_seed(99)
    assert torch.equal(first, seeded_noise(shape, "a cat", 1))
    for prompt, seed in (("a cat", 2), ("a dog", 1), ("a ca", 1)):
        assert float((first - seeded_noise(shape, prompt, seed)).abs().mean()) > 0.5
    assert float(seeded_noise((10_000,), "x", 0).std()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("boundary", [0.875, 0.9])
def test_a_level_is_on_one_side_of_a_boundary_as_wan_pipeline_has_it(boundary: float) -> None:
    """At the boundary itself too, in 32 and in 64 bit."""
    levels = [*sigma_schedule(40, 5.0).tolist(), boundary, float(torch.tensor(boundary))]
    t = 1000 * torch.tensor(levels)
    assert [is_high_noise(s, boundary) for s in levels] == [bool(x >= boundary * 1000) for x in t]


def test_training_levels_of_a_low_noise_expert_are_all_draws_that_fall_below() -> None:
    """The same distribution, given that: its grid, cut; the normal draw, cut. 58.3 % of shift 5's are below 0.875."""
    assert share_below("uniform_shifted", 5.0, 0.875) == pytest.approx(0.58333, abs=1e-5)
    drawn = draw_sigma("uniform_shifted", 20_000, 5.0, torch.Generator().manual_seed(0), below=0.875)
    grid = training_grid(5.0)
    below = grid[grid < 0.875]
    assert bool(torch.isin(drawn, below).all()) and drawn.max() < 0.875
    assert len(below) == 583 and len(drawn.unique()) == 583
    assert float(drawn.mean()) == pytest.approx(float(below.mean()), rel=0.01)
    settings = {"kind": "logit_normal", "shift": 5.0, "mean": 0.3, "std": 1.2}
    free = draw_sigma(count=200_000, generator=torch.Generator().manual_seed(1), **settings)
    cut = draw_sigma(count=200_000, generator=torch.Generator().manual_seed(2), below=0.875, **settings)
    kept = free[free < 0.875]
    assert share_below("logit_normal", 5.0, 0.875, 0.3, 1.2) == pytest.approx(len(kept) / len(free), abs=0.005)
    assert float(cut.min()) > 0 and float(cut.max()) <= 0.875 and cut.dtype == torch.float32
    for share in (0.1, 0.5, 0.9):
        assert float(cut.quantile(share)) == pytest.approx(float(kept.quantile(share)), rel=0.01)
