"""Clips that leave the VAE piece by piece, against diffusers' own decoding of the whole clip."""

import numpy as np
import pytest
import torch
from torch import Tensor

from vibe_pipeline.diffusion.decode import decode_bytes, decode_pieces, decode_video, latent_statistics, to_bytes
from vibe_pipeline.diffusion.models import find_model, load_vae

CPU = torch.device("cpu")


def whole(vae, latent: Tensor) -> Tensor:
    """What `AutoencoderKLWan.decode` gives, in [0, 1]."""
    mean, std = latent_statistics(vae, latent)
    with torch.inference_mode():
        return vae.decode((latent * std + mean).to(vae.dtype)).sample.float().div(2).add(0.5).clamp(0, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("tile", "rows", "columns"), [(None, 4, 6), (4, 4, 4), (4, 7, 6), (5, 5, 9)])
def test_pieces_are_diffusers_pixels_bit_for_bit(tiny, tile: int | None, rows: int, columns: int, dtype) -> None:
    """Both styles; a single tile, one exactly, rows and columns of tiles whose last is smaller than what it shares."""
    space = tiny.token // 2
    vae = load_vae(find_model(str(tiny.path)), CPU, None if tile is None else tile * space, dtype)
    latent = torch.randn(1, vae.config.z_dim, 2, rows, columns, generator=torch.Generator().manual_seed(0))
    expected = whole(vae, latent)
    assert torch.equal(decode_video(vae, latent), expected)
    written = np.rint(expected.numpy() * np.float32(255)).clip(0, 255).astype(np.uint8)  # as io.video writes floats
    assert np.array_equal(decode_bytes(vae, latent).numpy(), written)


def test_pieces_cover_the_clip_once_and_none_is_longer_than_a_latent_frame(tiny) -> None:
    vae = load_vae(find_model(str(tiny.path)), CPU, 2 * tiny.token)
    latent = torch.randn(1, vae.config.z_dim, 3, 7, 5, generator=torch.Generator().manual_seed(0))
    times = torch.zeros(9, 7 * tiny.token // 2, 5 * tiny.token // 2)
    for piece in decode_pieces(vae, latent):
        times[piece.place[2:]] += 1
        assert piece.frames.stop - piece.frames.start == (1 if piece.frames.start == 0 else 4)
        assert piece.pixels.shape[2:] == times[piece.place[2:]].shape
    assert bool((times == 1).all())


def test_two_clips_at_once_do_not_share_the_decoders_memory(wan22) -> None:
    vae = load_vae(find_model(str(wan22.path)), CPU)
    one, other = torch.randn(2, 1, 48, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    beside = zip(decode_pieces(vae, one), decode_pieces(vae, other), strict=True)
    both = [torch.cat(pixels, 2) for pixels in zip(*((a.pixels, b.pixels) for a, b in beside), strict=True)]
    assert torch.equal(both[0], whole(vae, one)) and torch.equal(both[1], whole(vae, other))


def test_what_is_no_number_is_refused_and_not_written_as_a_byte(wan21) -> None:
    vae = load_vae(find_model(str(wan21.path)), CPU)
    latent = torch.full((1, 16, 2, 4, 4), float("nan"))
    with pytest.raises(ValueError, match=r"not numbers \(NaN\).*model\.vae_dtype: float32"):
        decode_bytes(vae, latent)
    assert to_bytes(torch.tensor([0.0, 0.5, 1.0])).tolist() == [0, 128, 255]
