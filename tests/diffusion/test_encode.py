"""Clips that go to the VAE piece by piece, against diffusers' own encoding of the whole clip."""

import pytest
import torch
from torch import Tensor

from vibe_pipeline.diffusion.decode import latent_statistics
from vibe_pipeline.diffusion.encode import encode_video
from vibe_pipeline.diffusion.models import find_model, load_vae
from vibe_pipeline.planning.memory import LiveBytes

CPU = torch.device("cpu")


def whole(vae, pixels: Tensor) -> Tensor:
    """What `AutoencoderKLWan.encode` gives, normalised."""
    with torch.inference_mode():
        latent = vae.encode(pixels.to(vae.dtype).mul(2).sub(1)).latent_dist.mode().float()
        mean, std = latent_statistics(vae, latent)
        return (latent - mean) / std


def clip(frames: int, rows: int, columns: int, batch: int = 1) -> Tensor:
    """Pixels in the order that enlarged clips have them: frame by frame."""
    pixels = torch.rand(batch, frames, 3, rows, columns, generator=torch.Generator().manual_seed(0))
    return pixels.transpose(1, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("tile", "rows", "columns"), [(None, 4, 6), (4, 4, 4), (4, 11, 6), (5, 5, 14)])
def test_pieces_are_diffusers_latents_bit_for_bit(tiny, tile: int | None, rows: int, columns: int, dtype) -> None:
    """Both styles; a single tile, one exactly, rows and columns of tiles whose last is smaller than what it shares."""
    space = tiny.token // 2
    vae = load_vae(find_model(str(tiny.path)), CPU, None if tile is None else tile * space, dtype)
    pixels = clip(9, rows * space, columns * space)
    expected, before = whole(vae, pixels), pixels.clone()
    latent = encode_video(vae, pixels)
    assert latent.shape == (1, vae.config.z_dim, 3, rows, columns)
    assert torch.equal(latent, expected)
    assert torch.equal(pixels, before)  # they are scaled in copies


@pytest.mark.parametrize("frames", [1, 5, 8])
def test_stills_batches_and_frames_that_fill_no_chunk(tiny, frames: int) -> None:
    space = tiny.token // 2
    vae = load_vae(find_model(str(tiny.path)), CPU)
    pixels = clip(frames, 4 * space, 4 * space, batch=2)
    latent = encode_video(vae, pixels)
    assert latent.shape[2] == 1 + (frames - 1) // 4 and latent.is_contiguous()
    assert torch.equal(latent, whole(vae, pixels))


def test_the_clip_is_not_copied(wan22) -> None:
    """Twice the frames add latents alone; with diffusers they add the scaled clip and its patches."""
    space = wan22.token // 2
    vae = load_vae(find_model(str(wan22.path)), CPU, 4 * space)
    peaks = {}
    for frames in (13, 25):
        pixels = clip(frames, 6 * space, 9 * space)
        for name, encode in (("ours", encode_video), ("diffusers", whole)):
            with LiveBytes([*vae.parameters(), *vae.buffers(), pixels]) as live:
                encode(vae, pixels)
            peaks[name, frames] = live.peak
    added = pixels.nbytes * 12 / 25
    assert peaks["ours", 25] - peaks["ours", 13] < 0.2 * added
    assert peaks["diffusers", 25] - peaks["diffusers", 13] > 1.8 * added
