"""Tiled encoding and decoding against whole frames: the trained VAE of the miniature, and both real styles."""

from pathlib import Path

import numpy as np
import pytest
import torch

from vibe_pipeline.diffusion.models import decode_video, encode_video, find_model, load_vae
from vibe_pipeline.miniature.scene import sample_scenes
from vibe_pipeline.miniature.world import render

BASE = Path(__file__).parents[2] / "data/06_models/base"
CPU = torch.device("cpu")


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(-10 * torch.log10((a - b).square().mean()))


@pytest.mark.parametrize("tile", [64, 96])
def test_tiles_of_a_trained_vae_match_whole_frames(tile: int) -> None:
    """Within 40 dB of whole frames, and no farther from the truth: the seams are below the VAE's own error."""
    found = find_model(str(BASE))
    scene = sample_scenes(np.random.default_rng(5), 1, held_out=True)[0]
    clip = torch.from_numpy(render(scene, 160, 192, 5)).permute(3, 0, 1, 2)[None]
    whole, tiled = load_vae(found, CPU), load_vae(found, CPU, tile)
    latent, latent_tiled = encode_video(whole, clip), encode_video(tiled, clip)
    assert latent_tiled.shape == latent.shape
    assert float((latent_tiled - latent).norm() / latent.norm()) < 0.08
    decoded, decoded_tiled = decode_video(whole, latent), decode_video(tiled, latent)
    assert decoded_tiled.shape == decoded.shape
    assert psnr(decoded_tiled, decoded) > 40
    assert psnr(decode_video(tiled, latent_tiled), clip) > psnr(decoded, clip) - 0.3


def test_both_styles_tile_to_the_right_shapes_and_content(tiny) -> None:
    """The patch-2 VAE of TI2V counts its tiles in patches. Random weights see the whole frame: rough agreement only."""
    found = find_model(str(tiny.path))
    clip = torch.rand(1, 3, 5, 6 * tiny.token, 8 * tiny.token, generator=torch.Generator().manual_seed(0))
    whole, tiled = load_vae(found, CPU), load_vae(found, CPU, 4 * tiny.token)
    latent = encode_video(whole, clip)
    one, other = decode_video(whole, latent), decode_video(tiled, latent)
    assert encode_video(tiled, clip).shape == latent.shape
    assert other.shape == one.shape == clip.shape
    assert float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]) > 0.75  # misplaced tiles give 0


def test_a_tile_larger_than_the_frame_changes_nothing(tiny) -> None:
    found = find_model(str(tiny.path))
    clip = torch.rand(1, 3, 5, 2 * tiny.token, 2 * tiny.token, generator=torch.Generator().manual_seed(0))
    assert torch.equal(
        encode_video(load_vae(found, CPU, 8 * tiny.token), clip), encode_video(load_vae(found, CPU), clip)
    )
