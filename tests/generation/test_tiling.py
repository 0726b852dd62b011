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


@pytest.mark.parametrize("tile", [64, 72, 88, 96])
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


@pytest.mark.parametrize("latents", [4, 5, 6, 7, 9, 11, 13, 30])
def test_every_tile_that_is_accepted_fits_on_both_sides_of_the_vae(tiny, latents: int) -> None:
    """Odd numbers of latent pixels too, whose three quarters are none; frames of one tile and a bit, and of several."""
    found = find_model(str(tiny.path))
    space = tiny.token // 2
    whole, tiled = load_vae(found, CPU), load_vae(found, CPU, latents * space)
    for rows, columns in ((12, 16), (4, 14)):
        latent = torch.randn(1, whole.config.z_dim, 2, rows, columns, generator=torch.Generator().manual_seed(0))
        expected, decoded = decode_video(whole, latent), decode_video(tiled, latent)
        assert decoded.shape == expected.shape == (1, 3, 5, rows * space, columns * space)
        assert float(torch.corrcoef(torch.stack([expected.flatten(), decoded.flatten()]))[0, 1]) > 0.7
        assert encode_video(tiled, expected).shape == latent.shape


@pytest.mark.parametrize("tile", [200, 240, 300])
def test_the_tiles_that_used_to_break_fit_or_are_refused_with_the_nearest(tiny, tile: int) -> None:
    space, found = tiny.token // 2, find_model(str(tiny.path))
    if tile % space == 0:
        vae = load_vae(found, CPU, tile)
        assert vae.tile_sample_stride_width % space == 0 and 0.7 < vae.tile_sample_stride_width / tile <= 0.75
        latent = torch.randn(
            1, vae.config.z_dim, 1, 20, 4 * tile // space // 3, generator=torch.Generator().manual_seed(0)
        )
        pixels = decode_video(vae, latent)
        assert pixels.shape[-2:] == (20 * space, latent.shape[-1] * space)
        assert encode_video(vae, pixels).shape == latent.shape
        return
    nearest = f"{tile // space * space} or {-(-tile // space) * space}"
    with pytest.raises(
        ValueError, match=rf"model\.tile {tile} must be a multiple of {space} .*nearest that fit: {nearest}"
    ):
        load_vae(found, CPU, tile)


def test_a_tile_with_nothing_to_blend_is_refused(tiny) -> None:
    space = tiny.token // 2
    for tile in (1, space, 3 * space):
        with pytest.raises(ValueError, match=rf"at least {4 * space}; nearest that fit: {4 * space}$"):
            load_vae(find_model(str(tiny.path)), CPU, tile)


def test_a_tile_larger_than_the_frame_changes_nothing(tiny) -> None:
    found = find_model(str(tiny.path))
    clip = torch.rand(1, 3, 5, 2 * tiny.token, 2 * tiny.token, generator=torch.Generator().manual_seed(0))
    assert torch.equal(
        encode_video(load_vae(found, CPU, 8 * tiny.token), clip), encode_video(load_vae(found, CPU), clip)
    )
