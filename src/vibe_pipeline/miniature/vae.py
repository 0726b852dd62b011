"""Training the miniature's VAEs: one plainly, one in whose latents averaging means what enlarging a picture means.

HFATO degrades a latent by averaging it and learns to restore what that removed. Whether that is what really
enlarging a small picture does depends on the VAE, so it is the variable of an experiment: `equivariance` weighs a term
on the encoder, 0 for the plain VAE. With z = E(x), each channel of unit variance, D the paper's degradation of latents
and P shrinking a picture to its native size and enlarging it back, it is

    |D(z) - E(P(x))|^2 / |z - E(P(x))|^2,

the distance between what HFATO learns to undo and what it will meet, as a share of the latter. As a share, because
latents in which detail counts for less would make both small and nothing better.

The decoder is trained on alone afterwards: it is what smears a moving edge, and latents that no longer change can be
learned by a base meanwhile.

Noise in proportion to the latent's own standard deviation is added before decoding: what is to be decoded must be
encoded with an amplitude above it, so that detail counts in a squared error of latents.

The term is our own. Its relative is EQ-VAE (Kouzelis et al., ICML 2025, arXiv 2502.09509), which asks the decoder to
make the shrunk picture of a shrunk latent.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor, nn

from vibe_pipeline.diffusion.objectives import degrade
from vibe_pipeline.miniature.networks import build_vae
from vibe_pipeline.miniature.optimisers import ConvMuon

ENLARGEMENT = 3
"""Of the miniature's targets over its native clips."""


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
        """The weighted loss of clips [B, 3, F, H, W] in -1 to 1, and each of its terms by name."""
        posterior = DiagonalGaussianDistribution(self.vae._encode(x))
        mean = posterior.mean
        std = posterior.std + self.weights.noise * mean.detach().std()
        reconstruction = _reconstruction(decode_chunks(self.vae, mean + std * torch.randn_like(mean)), x)
        kl = 0.5 * (mean.square() + posterior.var - 1 - posterior.logvar).float().mean()
        losses = {"reconstruction": reconstruction, "kl": kl}
        loss = reconstruction + self.weights.kl * kl
        if self.weights.equivariance:
            losses["apart"] = self._apart(x, mean)
            loss = loss + self.weights.equivariance * losses["apart"]
        return {"loss": loss} | {name: value.detach() for name, value in losses.items()}

    def _apart(self, x: Tensor, mean: Tensor) -> Tensor:
        """How far degraded latents are from those of enlarged pictures, as a share of what enlarging takes away."""
        size = x.shape[-2:]
        small = resize(x, (size[0] // ENLARGEMENT, size[1] // ENLARGEMENT), antialias=True)
        enlarged = DiagonalGaussianDistribution(self.vae._encode(resize(small, size).clamp(-1, 1))).mean.float()
        true = mean.float()
        scale = true.std((0, 2, 3, 4), keepdim=True).clamp_min(1e-6)
        true, enlarged = true / scale, enlarged / scale
        return (degrade(true) - enlarged).square().mean() / (true - enlarged).square().mean()


class DecoderObjective(VaeObjective):
    """The decoder alone, behind the encoder of a trained VAE, whose latents stay what they are."""

    def __init__(self, folder: Path, weights: VaeWeights | None = None) -> None:
        super().__init__(weights, folder)
        for part in (self.vae.encoder, self.vae.quant_conv):
            part.requires_grad_(False)


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
