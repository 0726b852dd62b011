"""FlashVideo's way from a noised small picture to the large one, against its formulas."""

import math

import pytest
import torch
from torch import Tensor

from vibe_pipeline.diffusion.bridge import (
    bridge_schedule,
    bridge_start,
    ddpm_signals,
    draw_start_sigma,
    start_sigmas,
)
from vibe_pipeline.diffusion.flow import add_noise
from vibe_pipeline.diffusion.objectives import (
    OBJECTIVES,
    Sample,
    bridge_loss,
    degrade,
    literal_bridge_loss,
    mixed_loss,
    velocity_loss,
)
from vibe_pipeline.diffusion.sampling import denoise

SHAPE = (3, 4, 2, 6, 8)
# a_k and the sigma of the same signal-to-noise ratio, as read off the published code (BASELINES 2.1).
PUBLISHED = {
    600: (0.3571, 0.723), 650: (0.2940, 0.765), 675: (0.2640, 0.785), 700: (0.2351, 0.805), 750: (0.1811, 0.844),
    800: (0.1328, 0.882), 900: (0.0544, 0.948),
}  # fmt: skip


def wide(x: Tensor) -> Tensor:
    return x.view(-1, 1, 1, 1, 1)


def predict(x: Tensor, sigma: Tensor) -> Tensor:
    """A smooth stand-in for the model that depends on both inputs."""
    return torch.sin(x) + wide(sigma)


@pytest.fixture
def batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(SHAPE, generator=generator) for _ in range(2))
    sigma_start = torch.tensor([0.785, 0.6, 0.9])
    return {
        "x0": x0,
        "degraded": degrade(x0),
        "noise": noise,
        "sigma": sigma_start * torch.tensor([0.1, 0.5, 1.0]),
        "sigma_start": sigma_start,
    }


def test_the_noise_of_a_step_is_the_published_one() -> None:
    signals = ddpm_signals()
    for step, (signal, sigma) in PUBLISHED.items():
        assert signals[step] == pytest.approx(signal, abs=5e-5)
        assert start_sigmas(step, step) == [pytest.approx(sigma, abs=5e-4)]
    assert signals[675] == pytest.approx(0.26396, abs=5e-6)
    assert len(signals) == 1000 and signals[999] == 0 and signals[0] == pytest.approx(math.sqrt(1 - 0.00085))
    for call in (lambda: start_sigmas(0, 1000), lambda: start_sigmas(700, 650), lambda: start_sigmas(-1, 3)):
        with pytest.raises(ValueError, match="DDPM"):
            call()


def test_the_start_is_drawn_evenly_over_its_steps() -> None:
    levels = start_sigmas(650, 750)
    assert len(levels) == 101
    drawn = draw_start_sigma((650, 750), 20_000, torch.Generator().manual_seed(0))
    counts = torch.stack([(drawn == level).sum() for level in torch.tensor(levels)])
    assert counts.sum() == 20_000 and counts.min() > 120 and counts.max() < 290


def test_the_loss_is_its_equation(batch: dict) -> None:
    s, s0 = wide(batch["sigma"]), wide(batch["sigma_start"])
    u = s / s0
    x = (1 - u) * batch["x0"] + u * (1 - s0) * batch["degraded"] + s * batch["noise"]
    way = ((1 - s0) * batch["degraded"] + s0 * batch["noise"] - batch["x0"]) / s0
    error = (predict(x, batch["sigma"]) - way).square().mean((1, 2, 3, 4))
    torch.testing.assert_close(bridge_loss(predict, **batch), error.mean())
    weight = torch.tensor([0.0, 2.0, 1.0])
    torch.testing.assert_close(bridge_loss(predict, **batch, weight=weight), (weight * error).mean())


def test_where_nothing_is_degraded_it_is_the_velocity_loss(batch: dict) -> None:
    plain = {name: batch[name] for name in ("x0", "noise", "sigma")}
    same = bridge_loss(predict, **batch | {"degraded": batch["x0"]})
    torch.testing.assert_close(same, velocity_loss(predict, **plain))
    assert float(bridge_loss(predict, **batch)) != pytest.approx(float(same), rel=1e-3)


def test_the_target_is_the_slope_of_the_way_and_its_start_is_the_refine_start(batch: dict) -> None:
    seen: list[Tensor] = []

    def record(x: Tensor, sigma: Tensor) -> Tensor:
        seen.append(x)
        return torch.zeros_like(x)

    sigma_start = batch["sigma_start"]
    for u in (0.5, 0.5 - 1e-3, 1.0):
        loss = bridge_loss(record, **batch | {"sigma": u * sigma_start})
    way = (seen[0] - seen[1]) / wide(1e-3 * sigma_start)
    torch.testing.assert_close(way.square().mean(), loss, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(seen[2], add_noise(batch["degraded"], batch["noise"], sigma_start))


def test_the_true_velocity_leads_from_the_start_to_the_clean_latent_in_any_number_of_steps(batch: dict) -> None:
    way = (bridge_start(batch["degraded"], batch["noise"], batch["sigma_start"], "wan") - batch["x0"])[:1] / 0.785
    assert float(bridge_loss(lambda x, s: way, **{n: v[:1] for n, v in batch.items()})) < 1e-12
    start = bridge_start(*(batch[n][:1] for n in ("degraded", "noise", "sigma_start")), "wan")
    for steps in (1, 4, 5):
        found = denoise(lambda x, s: way, start, bridge_schedule(steps, 0.785, "wan"))
        torch.testing.assert_close(found, batch["x0"][:1], rtol=1e-4, atol=1e-4)


def test_the_literal_form_is_the_published_loss(batch: dict) -> None:
    """a_k z_LR + sqrt(1 - a_k^2) n at the start, levels of (0, 1], velocity towards it."""
    signal = torch.tensor([ddpm_signals()[k] for k in (675, 650, 750)])
    sigma_start = torch.tensor([start_sigmas(k, k)[0] for k in (675, 650, 750)])
    start = wide(signal) * batch["degraded"] + wide((1 - signal**2).sqrt()) * batch["noise"]
    torch.testing.assert_close(bridge_start(batch["degraded"], batch["noise"], sigma_start, "literal"), start)
    s = torch.tensor([0.1, 0.5, 1.0])
    x = (1 - wide(s)) * batch["x0"] + wide(s) * start
    error = (predict(x, s) - (start - batch["x0"])).square().mean()
    found = literal_bridge_loss(predict, **batch | {"sigma": s, "sigma_start": sigma_start})
    torch.testing.assert_close(found, error)
    bare = bridge_start(batch["degraded"], batch["noise"], torch.zeros(3), "literal")
    assert torch.equal(bare, batch["degraded"])
    with pytest.raises(ValueError, match="unknown form of bridge 'ddpm'"):
        bridge_start(batch["degraded"], batch["noise"], sigma_start, "ddpm")


def test_the_schedule_is_the_published_one() -> None:
    """t = 1 - level: 0 .1176 .2857 .5455 1 in four steps, 0 .0909 .2105 .375 .6154 1 in five."""
    for steps, grid in ((4, (0, 0.1176, 0.2857, 0.5455, 1)), (5, (0, 0.0909, 0.2105, 0.375, 0.6154, 1))):
        literal = bridge_schedule(steps, 0.785, "literal")
        assert (1 - literal).tolist() == pytest.approx(grid, abs=5e-5)
        torch.testing.assert_close(bridge_schedule(steps, 0.785, "wan"), 0.785 * literal)


def test_an_entry_takes_the_share_of_the_way(batch: dict) -> None:
    u, s0 = torch.tensor([0.1, 0.5, 1.0]), batch["sigma_start"]
    sample = Sample(batch["x0"], batch["noise"], u, degraded=batch["degraded"], sigma_start=s0)
    found = mixed_loss({"bridge": 1.0, "bridge_literal": 0.5}, predict, sample)
    torch.testing.assert_close(found["bridge"], bridge_loss(predict, **batch | {"sigma": u * s0}))
    torch.testing.assert_close(found["bridge_literal"], literal_bridge_loss(predict, **batch | {"sigma": u}))
    assert (OBJECTIVES["bridge"].bridge, OBJECTIVES["bridge_literal"].bridge) == ("wan", "literal")
    with pytest.raises(ValueError, match="start of the bridge"):
        mixed_loss({"bridge": 1.0}, predict, Sample(batch["x0"], batch["noise"], u, degraded=batch["degraded"]))
