"""Training the miniature's VAE, with latents in which averaging means blurring and detail has weight.

HFATO degrades a latent by averaging it and learns to restore what that removed, so both must live in the
latent: averages must carry the coarse picture, and detail must have enough amplitude to count in a squared
error. Two weak terms ask for it; neither was ablated:

- the shrunk latent must decode to the shrunk picture;
- noise, in proportion to the latent's own standard deviation, is added before decoding, so that what is to be
  decoded must be encoded with an amplitude above the noise, detail included.

With both, averaging a latent is three times as far from the truth as really enlarging the native picture
(see the degradation check), so the paper's latent form still learns a harsher task here.
"""

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor, nn

from vibe_pipeline.miniature.networks import build_vae
from vibe_pipeline.miniature.scene import sample_scene
from vibe_pipeline.miniature.world import STILL_STYLE, VIDEO_STYLE, render


def resize(x: Tensor, size: tuple[int, int], mode: str = "bicubic", antialias: bool = False) -> Tensor:
    """Resize the last two axes of [B, C, T, H, W], frame by frame."""
    b, c, t = x.shape[:3]
    flat = x.transpose(1, 2).flatten(0, 1)
    out = F.interpolate(flat, size=size, mode=mode, align_corners=False, antialias=antialias)
    return out.view(b, t, c, *size).transpose(1, 2)


def decode_chunks(vae: AutoencoderKLWan, z: Tensor) -> Tensor:
    """Decode as `AutoencoderKLWan._decode` does, chunk by chunk, but without its clamp, which kills gradients."""
    vae.clear_cache()
    x = vae.post_quant_conv(z)
    out = []
    for i in range(z.shape[2]):
        vae._conv_idx = [0]
        first = {"first_chunk": True} if i == 0 else {}
        out.append(vae.decoder(x[:, :, i : i + 1], feat_cache=vae._feat_map, feat_idx=vae._conv_idx, **first))
    vae.clear_cache()
    return torch.cat(out, 2)


def _reconstruction(x: Tensor, y: Tensor) -> Tensor:
    error = (x - y).float()
    gradients = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + 0.5 * error.square().mean() + gradients


class VaeObjective(nn.Module):
    """Reconstruction, a little KL, and averages that decode; forward takes pixels [B, 3, T, H, W] in [-1, 1]."""

    def __init__(self, kl_weight: float = 3e-4, shrunk_weight: float = 0.05, noise: float = 0.1) -> None:
        super().__init__()
        self.vae = build_vae()
        self.kl_weight, self.shrunk_weight, self.noise = kl_weight, shrunk_weight, noise

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        posterior = DiagonalGaussianDistribution(self.vae._encode(x))
        mean, std = posterior.mean, posterior.std + self.noise * posterior.mean.detach().std()
        reconstruction = _reconstruction(decode_chunks(self.vae, mean + std * torch.randn_like(mean)), x)
        kl = 0.5 * (mean.square() + posterior.var - 1 - posterior.logvar).float().mean()
        small = resize(x, (x.shape[-2] // 2, x.shape[-1] // 2), antialias=True)
        shrunk = _reconstruction(decode_chunks(self.vae, F.avg_pool3d(mean, (1, 2, 2))), small)
        return {
            "loss": reconstruction + self.kl_weight * kl + self.shrunk_weight * shrunk,
            "reconstruction": reconstruction.detach(),
            "kl": kl.detach(),
            "shrunk": shrunk.detach(),
        }


def draw_batch(rng: np.random.Generator, native: int, frames: int, clips: int) -> Tensor:
    """Stills or clips, [B, 3, T, native, native], at native size or as native-size crops of twice the size.

    Short clips show more scenes for the same time.
    """
    still = rng.random() < 0.25
    short = rng.random() < 0.6
    length = 1 if still else (frames + 1) // 2 if short else frames
    count = clips * 4 if still else clips * 2 if short else clips
    size = native * (2 if rng.random() < 0.6 else 1)
    batch = np.empty((count, length, native, native, 3), np.float32)
    for i in range(count):
        style = STILL_STYLE if still and rng.random() < 0.8 else VIDEO_STYLE
        y, x = rng.integers(0, size - native + 1, 2)
        start = 0 if still else int(rng.integers(0, frames - length + 1))
        clip = render(sample_scene(rng), size, size, 1 if still else frames, style)
        batch[i] = clip[start : start + length, y : y + native, x : x + native]
    return torch.from_numpy(batch).permute(0, 4, 1, 2, 3) * 2 - 1


def vae_optimisers(module: nn.Module, rate: float) -> list[torch.optim.Optimizer]:
    """AdamW over everything."""
    return [torch.optim.AdamW(module.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=1e-4)]
