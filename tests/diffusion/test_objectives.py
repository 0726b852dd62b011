"""The training objectives against their equations."""

import math

import pytest
import torch
from torch import Tensor

from vibe_pipeline.diffusion.objectives import (
    OBJECTIVES,
    Objective,
    Sample,
    blur,
    degrade,
    degraded_velocity_loss,
    hfato_loss,
    mixed_loss,
    split_spectrum,
    star_loss,
    velocity_loss,
)

SHAPE = (3, 4, 2, 6, 8)


def predict(x: Tensor, sigma: Tensor) -> Tensor:
    """A smooth stand-in for the model that depends on both inputs."""
    return torch.sin(x) + sigma.view(-1, 1, 1, 1, 1)


@pytest.fixture
def batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "x0": torch.randn(SHAPE, generator=generator),
        "noise": torch.randn(SHAPE, generator=generator),
        "sigma": torch.tensor([0.1, 0.5, 0.9]),
    }


@pytest.mark.parametrize("index", range(3))
def test_hfato_without_degradation_is_sigma_squared_times_the_velocity_loss(batch: dict, index: int) -> None:
    one = {k: v[index : index + 1] for k, v in batch.items()}
    hfato = hfato_loss(predict, **one, degraded=one["x0"])
    expected = one["sigma"][0] ** 2 * velocity_loss(predict, **one)
    torch.testing.assert_close(hfato, expected, rtol=1e-5, atol=1e-7)
    assert float(hfato) > 0
    degraded = hfato_loss(predict, **one, degraded=degrade(one["x0"]))
    assert float(degraded) != pytest.approx(float(hfato), rel=1e-3)


def test_hfato_is_zero_for_the_velocity_that_leads_to_the_clean_latent(batch: dict) -> None:
    def perfect(x: Tensor, sigma: Tensor) -> Tensor:
        return (x - batch["x0"]) / sigma.view(-1, 1, 1, 1, 1)

    degraded = degrade(batch["x0"])
    assert float(hfato_loss(perfect, **batch, degraded=degraded)) == pytest.approx(0, abs=1e-9)
    assert float(degraded_velocity_loss(perfect, degraded, batch["noise"], batch["sigma"])) > 0.1


def test_velocity_loss_is_its_equation(batch: dict) -> None:
    x0, noise, sigma = batch.values()
    s = sigma.view(-1, 1, 1, 1, 1)
    error = (predict((1 - s) * x0 + s * noise, sigma) - (noise - x0)).square().mean((1, 2, 3, 4))
    torch.testing.assert_close(velocity_loss(predict, **batch), error.mean())
    weight = torch.tensor([0.0, 2.0, 1.0])
    torch.testing.assert_close(velocity_loss(predict, **batch, weight=weight), (weight * error).mean())


def test_hfato_is_its_equation(batch: dict) -> None:
    x0, noise, sigma = batch.values()
    degraded, s = degrade(x0), sigma.view(-1, 1, 1, 1, 1)
    x_sigma = (1 - s) * degraded + s * noise
    error = (x_sigma - s * predict(x_sigma, sigma) - x0).square().mean((1, 2, 3, 4))
    weight = torch.tensor([0.5, 2.0, 1.0])
    torch.testing.assert_close(hfato_loss(predict, **batch, degraded=degraded, weight=weight), (weight * error).mean())


def test_star_is_its_equation_and_teaches(batch: dict) -> None:
    """The spectra written out by the full FFT, and a gradient through the frequency term alone."""
    x0, noise, sigma = batch.values()
    s = sigma.view(-1, 1, 1, 1, 1)
    x_sigma = (1 - s) * x0 + s * noise
    gain = torch.ones((), requires_grad=True)
    velocity = gain * predict(x_sigma, sigma)
    error = torch.fft.fft2(x_sigma - s * velocity - x0, norm="ortho")[..., : SHAPE[-1] // 2 + 1]
    radius = (torch.tensor([0, 1, 2, 3, 2, 1]) / 3)[:, None].square() + (torch.arange(5) / 4).square()
    low = 1 / (1 + torch.exp(-10 * (0.5 - radius.sqrt())))
    means = [(part * error).abs().mean((1, 2, 3, 4)) for part in (low, 1 - low)]
    term = 0.01 * ((1 - sigma) * (sigma**2 * means[0] + (1 - sigma**2) * means[1])).mean()
    weight = torch.tensor([0.0, 2.0, 1.0])
    found = star_loss(lambda x, level: gain * predict(x, level), x0, noise, sigma, weight)
    plain = velocity_loss(lambda x, level: gain * predict(x, level), x0, noise, sigma, weight)
    torch.testing.assert_close(found, plain + term)
    slope, expected = (torch.autograd.grad(v, gain, retain_graph=True)[0] for v in (found - plain, term))
    assert float(expected.abs()) > 1e-5
    torch.testing.assert_close(slope, expected, rtol=1e-3, atol=1e-6)
    parts = split_spectrum(x0)
    torch.testing.assert_close(torch.fft.irfft2(sum(parts), s=SHAPE[-2:], norm="ortho"), x0, rtol=1e-4, atol=1e-5)


def test_without_x0_loss_the_degraded_latent_is_the_target(batch: dict) -> None:
    noise, sigma, s = batch["noise"], batch["sigma"], batch["sigma"].view(-1, 1, 1, 1, 1)
    degraded = degrade(batch["x0"])
    error = (predict((1 - s) * degraded + s * noise, sigma) - (noise - degraded)).square().mean()
    torch.testing.assert_close(degraded_velocity_loss(predict, degraded, noise, sigma), error)


def test_known_values_of_the_degradation() -> None:
    row = torch.tensor([0.0, 0.0, 8.0, 8.0, 0.0, 0.0, 0.0, 0.0]).expand(1, 1, 1, 4, 8)
    # Pairs are averaged to 0 8 0 0; enlarged with align_corners=False, weights are 3/4 and 1/4.
    expected = torch.tensor([0.0, 2.0, 6.0, 6.0, 2.0, 0.0, 0.0, 0.0]).expand(1, 1, 1, 4, 8)
    torch.testing.assert_close(degrade(row), expected)
    nearest = degrade(torch.arange(4.0).view(1, 1, 1, 1, 4).expand(1, 1, 1, 2, 4), mode="nearest")
    assert nearest[0, 0, 0, 0].tolist() == [0, 0, 2, 2]


@pytest.mark.parametrize("mode", ["trilinear", "nearest"])
@pytest.mark.parametrize("size", [(3, 6, 8), (5, 7, 9), (1, 2, 2)])
def test_degradation_leaves_time_alone(mode: str, size: tuple[int, int, int]) -> None:
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    whole = degrade(x, mode=mode)
    assert whole.shape == x.shape
    frames = torch.cat([degrade(x[:, :, t : t + 1], mode=mode) for t in range(size[0])], 2)
    torch.testing.assert_close(whole, frames)
    flat = torch.arange(float(size[0])).view(1, 1, -1, 1, 1).expand(1, 1, *size)
    torch.testing.assert_close(degrade(flat, mode=mode), flat)


@pytest.mark.parametrize(
    ("shape", "factor", "message"),
    [((1, 2, 4, 4), 0.5, "B, C, T, H, W"), ((1, 2, 1, 1, 4), 0.5, "1 x 4"), ((1, 2, 1, 4, 4), 1.5, "factor 1.5")],
)
def test_latents_that_cannot_be_degraded_are_refused(shape: tuple, factor: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        degrade(torch.zeros(shape), factor)


def test_a_mix_is_the_weighted_sum_of_its_parts(batch: dict) -> None:
    weights = {"velocity": 0.5, "hfato": 2.0, "degraded_velocity": 0.0}
    degraded = degrade(batch["x0"])
    losses = mixed_loss(weights, predict, Sample(**batch, degraded=degraded))
    assert set(losses) == {"loss", "velocity", "hfato"}
    torch.testing.assert_close(losses["velocity"], velocity_loss(predict, **batch))
    torch.testing.assert_close(losses["hfato"], hfato_loss(predict, **batch, degraded=degraded))
    torch.testing.assert_close(losses["loss"], 0.5 * losses["velocity"] + 2 * losses["hfato"])
    third = mixed_loss({"degraded_velocity": 1.0}, predict, Sample(**batch, degraded=degraded))["loss"]
    torch.testing.assert_close(third, degraded_velocity_loss(predict, degraded, batch["noise"], batch["sigma"]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kernel", "sigma"), [(5, 1.0), (3, 0.6), (7, 2.0)])
def test_a_blur_is_the_gaussian_of_each_frame(dtype: torch.dtype, kernel: int, sigma: float) -> None:
    """Against the sum written out: w(i, j) ~ exp(-(i^2 + j^2) / 2 sigma^2), of sum 1, edges mirrored."""
    x0 = torch.randn(2, 3, 2, 4, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(dtype)
    reach, (height, width) = kernel // 2, x0.shape[-2:]
    steps = range(-reach, reach + 1)
    weights = {(i, j): math.exp(-(i * i + j * j) / (2 * sigma**2)) for i in steps for j in steps}

    def mirrored(place: int, size: int) -> int:
        return size - 1 - abs(size - 1 - abs(place))

    expected = torch.zeros_like(x0, dtype=torch.float64)
    for y in range(height):
        for x in range(width):
            for (i, j), weight in weights.items():
                there = x0[..., mirrored(y + i, height), mirrored(x + j, width)].double()
                expected[..., y, x] += weight / sum(weights.values()) * there
    found = blur(x0, kernel, sigma)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected.to(dtype))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(blur(x0, kernel, sigma), found)
    alone = torch.cat([blur(x0[:, :, t : t + 1], kernel, sigma) for t in range(2)], 2)
    assert torch.equal(alone, found), "frames do not mix"
    flat = torch.full_like(x0, 0.75)
    torch.testing.assert_close(blur(flat, kernel, sigma), flat)


def test_a_latent_that_is_too_small_to_be_blurred_is_refused() -> None:
    with pytest.raises(ValueError, match=r"kernel 7 reaches 3 cells beyond a 3 x 9 latent"):
        blur(torch.zeros(1, 1, 1, 3, 9), 7)
    with pytest.raises(ValueError, match=r"expected a latent \[B, C, T, H, W\]"):
        blur(torch.zeros(1, 1, 8, 8))


def test_an_unknown_objective_and_a_missing_degraded_latent_are_refused(batch: dict) -> None:
    with pytest.raises(ValueError, match="hfatto"):
        mixed_loss({"hfatto": 1.0}, predict, Sample(**batch))
    with pytest.raises(ValueError, match="degraded latent"):
        mixed_loss({"hfato": 1.0}, predict, Sample(**batch))


def test_a_new_objective_is_one_entry(batch: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = Objective(lambda predict, s: predict(s.x0, s.sigma).abs().mean(), "small velocities on clean latents")
    monkeypatch.setitem(OBJECTIVES, "toy", toy)
    losses = mixed_loss({"toy": 3.0, "velocity": 1.0}, predict, Sample(**batch))
    expected = predict(batch["x0"], batch["sigma"]).abs().mean()
    torch.testing.assert_close(losses["toy"], expected)
    torch.testing.assert_close(losses["loss"], 3 * expected + velocity_loss(predict, **batch))
