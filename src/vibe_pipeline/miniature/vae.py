"""Training the miniature's VAEs: one plainly, one in whose latents shrinking means shrinking.

HFATO degrades a latent by averaging it and learns to restore what that removed. Whether that is what really
enlarging a small picture does depends on the VAE, so it is the variable of an experiment:
`equivariance` weighs two terms,

- the degraded latent must be the latent of the degraded picture (on the encoder),
- the shrunk latent must decode to the shrunk picture (on the decoder, as EQ-VAE),

and is 0 for the plain VAE. All else is the same in both.

The decoder is trained on alone afterwards: it is what smears a moving edge, and latents that no longer change can be
learned by a base meanwhile.

Noise in proportion to the latent's own standard deviation is added before decoding: what is to be decoded must be
encoded with an amplitude above it, so that detail counts in a squared error of latents.

Source of the second term: EQ-VAE (Kouzelis et al., ICML 2025, arXiv 2502.09509); the first is our own.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from numpy.typing import NDArray
from torch import Tensor, nn

from vibe_pipeline.miniature.networks import build_vae
from vibe_pipeline.miniature.optimisers import ConvMuon
from vibe_pipeline.miniature.scene import sample_scene
from vibe_pipeline.miniature.world import STILL_STYLE, VIDEO_STYLE, centre_path, render


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


@dataclass(frozen=True)
class VaeWeights:
    """Weights of the VAE's loss beside reconstruction; `noise` is a share of the latent's standard deviation."""

    kl: float = 1e-4
    noise: float = 0.03
    equivariance: float = 0.0


class VaeObjective(nn.Module):
    """Reconstruction, a little KL, and equivariance; forward takes pixels [B, 3, T, H, W] in [-1, 1].

    With `start`, the folder of a trained VAE, training goes on from its weights.
    """

    def __init__(self, weights: VaeWeights | None = None, start: Path | None = None) -> None:
        super().__init__()
        self.vae = build_vae() if start is None else AutoencoderKLWan.from_pretrained(start).float().train()
        self.weights = weights or VaeWeights()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        posterior = DiagonalGaussianDistribution(self.vae._encode(x))
        mean = posterior.mean
        std = posterior.std + self.weights.noise * mean.detach().std()
        reconstruction = _reconstruction(decode_chunks(self.vae, mean + std * torch.randn_like(mean)), x)
        kl = 0.5 * (mean.square() + posterior.var - 1 - posterior.logvar).float().mean()
        losses = {"reconstruction": reconstruction, "kl": kl}
        loss = reconstruction + self.weights.kl * kl
        if self.weights.equivariance:
            losses |= self._equivariance(x, mean)
            loss = loss + self.weights.equivariance * (losses["degraded"] + losses["shrunk"])
        return {"loss": loss} | {name: value.detach() for name, value in losses.items()}

    def _equivariance(self, x: Tensor, mean: Tensor) -> dict[str, Tensor]:
        """HFATO's degradation, halving and doubling, of the latent against that of the picture; and halving decoded."""
        size, latent = x.shape[-2:], mean.shape[-2:]
        small = resize(x, (size[0] // 2, size[1] // 2), antialias=True)
        halved = F.avg_pool3d(mean, (1, 2, 2))
        degraded = DiagonalGaussianDistribution(self.vae._encode(resize(small, size))).mean
        apart = (resize(halved, latent, mode="bilinear") - degraded).float().square().mean()
        return {
            "degraded": apart / mean.detach().float().var(),
            "shrunk": _reconstruction(decode_chunks(self.vae, halved), small),
        }


class DecoderObjective(VaeObjective):
    """The decoder alone, behind the encoder of a trained VAE, whose latents stay what they are."""

    def __init__(self, folder: Path, weights: VaeWeights | None = None) -> None:
        super().__init__(weights, folder)
        for part in (self.vae.encoder, self.vae.quant_conv):
            part.requires_grad_(False)


def draw_batch(rng: np.random.Generator, native: int, frames: int, clips: int, factor: int = 3) -> Tensor:
    """Stills or clips, [B, 3, T, native, native], at native size or as native-size crops of `factor` times the size.

    Short clips show more scenes for the same time; exchanged colours, more pictures.
    """
    still = rng.random() < 0.15
    short = rng.random() < 0.6
    length = 1 if still else (frames + 1) // 2 if short else frames
    count = clips * 4 if still else clips * 2 if short else clips
    batch = np.empty((count, length, native, native, 3), np.float32)
    for i in range(count):
        size = native * (factor if rng.random() < 0.7 else 1)
        style = STILL_STYLE if still and rng.random() < 0.8 else VIDEO_STYLE
        start = 0 if still else int(rng.integers(0, frames - length + 1))
        scene = sample_scene(rng)
        clip = render(scene, size, size, 1 if still else frames, style)[start : start + length]
        shown = centre_path(scene, 1 if still else frames)[start + int(rng.integers(length))]
        y, x = _corner(rng, shown, size, native)
        batch[i] = clip[:, y : y + native, x : x + native, rng.permutation(3)]
    pixels = torch.from_numpy(batch).permute(0, 4, 1, 2, 3) * 2 - 1
    return pixels.contiguous(memory_format=torch.channels_last_3d)  # convolutions on a CPU are a third faster so


def _corner(rng: np.random.Generator, centre: NDArray[np.float32], size: int, crop: int) -> list[int]:
    """Row and column of a crop: three in four see the object, since what moves is hard and most of a frame stands."""
    if rng.random() < 0.25:
        return rng.integers(0, size - crop + 1, 2).tolist()
    wanted = centre[::-1] * size + rng.uniform(-0.2, 0.2, 2) * size - crop / 2
    return np.clip(np.rint(wanted), 0, size - crop).astype(int).tolist()


def vae_optimisers(module: nn.Module, rate: float, muon_rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the kernels inside the network, AdamW for its ends, norms and biases; what is frozen is left out."""
    ends = ("conv_in", "decoder.conv_out", "quant_conv")
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    kernels = [p for name, p in trained.items() if p.ndim >= 4 and not any(e in name for e in ends)]
    chosen = {id(p) for p in kernels}
    others = [p for p in trained.values() if id(p) not in chosen]
    return [
        ConvMuon(kernels, lr=muon_rate, momentum=0.95, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=1e-4),
    ]
