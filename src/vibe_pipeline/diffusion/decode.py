"""Decoding latents piece by piece: what the VAE has made leaves the device at once, and no clip is ever whole on it.

diffusers' `AutoencoderKLWan.decode` keeps what it makes until all is there, joins, cuts and clamps it: 3 copies of the
clip, 4.8 in tiles, 58 GB at 2176x3840x121 in 32 bit. Here the same modules run in the same order on the same numbers,
and every latent frame of every tile is given away when it is done. The pixels are diffusers' own, bit for bit.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, unpatchify
from torch import Tensor

from vibe_pipeline.diffusion.vae_tiles import Part, Tiling, blended


@dataclass(frozen=True)
class Piece:
    """A part of a clip, and where it belongs.

    Attributes:
        frames: Of the clip.
        rows: In pixels.
        columns: In pixels.
        pixels: [B, 3, frames, rows, columns] in [0, 1], 32 bit, on the VAE's device.
    """

    frames: slice
    rows: slice
    columns: slice
    pixels: Tensor

    @property
    def place(self) -> tuple[slice, ...]:
        """Index of the piece in a clip [B, 3, T, H, W]."""
        return slice(None), slice(None), self.frames, self.rows, self.columns


def latent_statistics(vae: AutoencoderKLWan, like: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the VAE's latents, [1, C, 1, 1, 1], as `like` in type and device."""
    shape = (1, -1, 1, 1, 1)
    mean = torch.tensor(vae.config.latents_mean).view(shape).to(like)
    return mean, torch.tensor(vae.config.latents_std).view(shape).to(like)


def decode_pieces(vae: AutoencoderKLWan, latent: Tensor) -> Iterator[Piece]:
    """A clip from its normalised latent [B, C, t, h, w], as :func:`pieces_of` gives it."""
    x = latent.to(vae.device)
    mean, std = latent_statistics(vae, x)
    return pieces_of(vae, (x * std + mean).to(vae.dtype))


@torch.inference_mode()
def pieces_of(vae: AutoencoderKLWan, x: Tensor) -> Iterator[Piece]:
    """A clip tile by tile, and of every tile a latent frame at a time: one frame of pixels first, then four.

    Args:
        vae: With tiles or without.
        x: The latent as the VAE itself has it, [B, C, t, h, w], in its type and on its device.
    """
    height, width = x.shape[-2:]
    tiling = Tiling.decoding(vae, height, width)
    for part in blended(vae, tiling, height, width, lambda rows, columns: _frames(vae, x[..., rows, columns])):
        yield _piece(vae, part, tiling.stride)


def _frames(vae: AutoencoderKLWan, tile: Tensor) -> Iterator[Tensor]:
    """The decoder's pixels of every latent frame, as `AutoencoderKLWan._decode` calls it."""
    memory: list[Tensor | str | None] = [None] * sum(isinstance(m, WanCausalConv3d) for m in vae.decoder.modules())
    for k in range(tile.shape[2]):
        x = vae.post_quant_conv(tile[:, :, k : k + 1])
        yield vae.decoder(x, feat_cache=memory, feat_idx=[0], first_chunk=k == 0)


def _piece(vae: AutoencoderKLWan, part: Part, stride: tuple[int, int]) -> Piece:
    """What of a latent frame's tile is nobody else's, as pixels in [0, 1]."""
    space, patch = vae.spatial_compression_ratio, vae.config.patch_size or 1
    height, width = (n * space // patch for n in stride)
    pixels = part.values[..., :height, :width]
    if vae.config.patch_size is not None:
        pixels = unpatchify(pixels, patch_size=patch)
    pixels = torch.clamp(pixels, min=-1.0, max=1.0).float().div_(2).add_(0.5).clamp_(0, 1)
    first = max(0, 1 + (part.index - 1) * vae.config.scale_factor_temporal)
    top, start = part.top * space, part.left * space
    frames, rows, columns = pixels.shape[2:]
    return Piece(slice(first, first + frames), slice(top, top + rows), slice(start, start + columns), pixels)


@torch.inference_mode()
def decode_video(vae: AutoencoderKLWan, latent: Tensor) -> Tensor:
    """Normalised latents [B, C, t, h, w] to pixels [B, 3, T, H, W] in [0, 1], 32 bit, on the CPU."""
    clip = torch.empty(_pixels_shape(vae, latent))
    for piece in decode_pieces(vae, latent):
        clip[piece.place] = piece.pixels.cpu()
    return clip


@torch.inference_mode()
def decode_bytes(vae: AutoencoderKLWan, latent: Tensor, change: Callable[[Piece], Tensor] | None = None) -> Tensor:
    """Normalised latents [B, C, t, h, w] to pixels [B, 3, T, H, W] as they are written: 8 bit, on the CPU.

    Args:
        vae: With tiles or without.
        latent: Normalised.
        change: From a piece its pixels in [0, 1], where they are to be others.

    Raises:
        ValueError: A value is not a number.
    """
    clip = torch.empty(_pixels_shape(vae, latent), dtype=torch.uint8)
    for piece in decode_pieces(vae, latent):
        clip[piece.place] = to_bytes(piece.pixels if change is None else change(piece)).cpu()
    return clip


def to_bytes(pixels: Tensor) -> Tensor:
    """Pixels in [0, 1] to 8 bit, rounded to the nearest; `pixels` is overwritten.

    Raises:
        ValueError: One is not a number, which no byte could tell.
    """
    if bool(pixels.isnan().any()):
        raise ValueError(
            "the VAE decoded values that are not numbers (NaN): the latent had them already, or 16 bit did not hold"
            " them; try model.vae_dtype: float32, then model.dtype: float32"
        )
    return pixels.mul_(255).round_().clamp_(0, 255).to(torch.uint8)


def _pixels_shape(vae: AutoencoderKLWan, latent: Tensor) -> tuple[int, ...]:
    batch, _, frames, height, width = latent.shape
    space, time = vae.spatial_compression_ratio, vae.config.scale_factor_temporal
    return batch, 3, (frames - 1) * time + 1, height * space, width * space
