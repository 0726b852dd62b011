"""Shrinking as a camera does, enlarging as inference does."""

import math

import pytest
import torch
from torch import Tensor

from vibe_pipeline.images.resize import enlarge, sharpen, shrink


def wave(size: int, cycles: float) -> Tensor:
    x = (torch.arange(size) + 0.5) / size
    row = 0.5 + 0.4 * torch.cos(2 * math.pi * cycles * x)
    return row.expand(1, 3, 2, size, size)


def amplitude(pixels: Tensor) -> float:
    inner = pixels[..., pixels.shape[-1] // 4 : -pixels.shape[-1] // 4]
    return float(inner.max() - inner.min()) / 2


@pytest.mark.parametrize("blur", [0.0, 0.95])
def test_a_flat_picture_stays_flat(blur: float) -> None:
    flat = torch.full((1, 3, 2, 32, 48), 0.37)
    torch.testing.assert_close(shrink(flat, 16, 24, blur), torch.full((1, 3, 2, 16, 24), 0.37))
    torch.testing.assert_close(enlarge(flat, 64, 96), torch.full((1, 3, 2, 64, 96), 0.37))


@pytest.mark.parametrize("blur", [0.0, 0.5, 1.0])
def test_the_blur_is_a_gaussian_in_pixels_of_the_small_picture(blur: float) -> None:
    size, small, cycles = 128, 64, 8.0
    kept = amplitude(shrink(wave(size, cycles), small, small, blur)) / amplitude(
        shrink(wave(size, cycles), small, small)
    )
    assert kept == pytest.approx(math.exp(-2 * (math.pi * cycles * blur / small) ** 2), abs=0.02)


@pytest.mark.parametrize("amount", [0.5, 1.0])
def test_an_unsharp_mask_raises_a_wave_by_what_the_gaussian_takes_away(amount: float) -> None:
    """Against the formula: a wave of c cycles keeps exp(-2 (pi c sigma / size)^2) of itself in the blurred picture."""
    size, cycles, sigma = 128, 8.0, 2.0
    plain = 0.5 + 0.2 * (wave(size, cycles) - 0.5)
    kept = math.exp(-2 * (math.pi * cycles * sigma / size) ** 2)
    sharp = sharpen(plain.clone(), sigma, amount)
    assert amplitude(sharp) / amplitude(plain) == pytest.approx(1 + amount * (1 - kept), rel=0.01)
    flat = torch.full((1, 3, 2, 32, 48), 0.37)
    torch.testing.assert_close(sharpen(flat.clone(), sigma, amount), flat)
    assert sharpen(torch.eye(32).expand(1, 3, 2, 32, 32).clone(), 1.0, 9.0).min() >= 0


def test_what_the_small_picture_cannot_hold_is_gone_not_aliased() -> None:
    assert amplitude(shrink(wave(128, 48.0), 64, 64)) < 0.03
    assert amplitude(wave(128, 48.0)[..., ::2]) > 0.3


def test_frames_and_clips_are_treated_alone() -> None:
    pixels = torch.rand(2, 3, 3, 16, 20, generator=torch.Generator().manual_seed(0))
    for resize in (lambda x: shrink(x, 8, 10, 0.7), lambda x: enlarge(x, 32, 40)):
        whole = resize(pixels)
        parts = torch.stack([torch.cat([resize(clip[None, :, t : t + 1])[0] for t in range(3)], 1) for clip in pixels])
        torch.testing.assert_close(whole, parts)
        assert 0 <= float(whole.min()) <= float(whole.max()) <= 1
