"""Encoding pixels piece by piece: only what the encoder works at is on the device, the clip stays where it is.

diffusers' `AutoencoderKLWan.encode` wants the whole clip there in [-1, 1], which is 12 GB at 2176x3840x121 in 32 bit,
and patchifies it into a second one. Here the same modules run in the same order on the same numbers, and every tile
takes its frames when it is their turn. The latents are diffusers' own, bit for bit.
"""

from collections.abc import Iterator

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, patchify
from torch import Tensor

from vibe_pipeline.diffusion.decode import latent_statistics
from vibe_pipeline.diffusion.vae_tiles import Tiling, blended

CHUNK = 4
"""Frames that diffusers gives its encoder at once, after a first one alone; those that fill none are dropped."""
Place = tuple[slice, ...]
"""Index of a part in a latent [B, C, t, h, w]."""


@torch.inference_mode()
def encode_video(vae: AutoencoderKLWan, pixels: Tensor) -> Tensor:
    """Pixels [B, 3, T, H, W] in [0, 1] to normalised latents [B, C, t, h, w], 32 bit, on the CPU.

    Args:
        vae: With tiles or without.
        pixels: On any device; they are read a few frames of a tile at a time, and stay as they are.
    """
    batch, _, frames, height, width = pixels.shape
    space, time = vae.spatial_compression_ratio, vae.config.scale_factor_temporal
    latent = torch.empty(batch, vae.config.z_dim, 1 + (frames - 1) // time, height // space, width // space)
    for place, values in latents_of(vae, pixels):
        mean, std = latent_statistics(vae, values)
        latent[place] = ((values - mean) / std).cpu()
    return latent


@torch.inference_mode()
def latents_of(vae: AutoencoderKLWan, pixels: Tensor) -> Iterator[tuple[Place, Tensor]]:
    """The latent as the VAE itself has it, in 32 bit on its device: with tiles a few frames of a tile at a time."""
    space = vae.spatial_compression_ratio
    height, width = (n // space for n in pixels.shape[-2:])
    tiling = Tiling.encoding(vae, height, width)
    convolutions = sum(isinstance(module, WanCausalConv3d) for module in vae.encoder.modules())

    def parts(rows: slice, columns: slice) -> Iterator[Tensor]:
        tile = pixels[..., rows.start * space : rows.stop * space, columns.start * space : columns.stop * space]
        encoded = _encoded(vae, tile, [None] * convolutions)
        # One tile's frames are joined before the last layer, as diffusers does: rounding may depend on a call's size.
        halves = map(vae.quant_conv, [torch.cat(list(encoded), 2)] if tiling.whole else encoded)
        return (both.chunk(2, dim=1)[0] for both in halves)  # the mean; the other half is the log of the variance

    for part in blended(vae, tiling, height, width, parts):
        values = part.values[..., : tiling.stride[0], : tiling.stride[1]].float()
        frames, rows, columns = values.shape[2:]
        first = max(0, 1 + (part.index - 1) * frames)
        corner = (slice(first, first + frames), slice(part.top, part.top + rows), slice(part.left, part.left + columns))
        yield (slice(None), slice(None), *corner), values


def _encoded(vae: AutoencoderKLWan, pixels: Tensor, memory: list[Tensor | None]) -> Iterator[Tensor]:
    """What the encoder makes of a tile, a chunk of frames at a time, as `AutoencoderKLWan._encode` calls it.

    `memory` is filled: a place a convolution, for the frames before.
    """
    for k in range(1 + (pixels.shape[2] - 1) // CHUNK):
        frames = slice(1 + (k - 1) * CHUNK, 1 + k * CHUNK) if k else slice(0, 1)
        x = pixels[:, :, frames].to(vae.device, vae.dtype, copy=True).mul_(2).sub_(1)
        if vae.config.patch_size is not None:
            x = patchify(x, patch_size=vae.config.patch_size)
        yield vae.encoder(x, feat_cache=memory, feat_idx=[0])
