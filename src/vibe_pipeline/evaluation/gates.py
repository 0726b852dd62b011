"""Is the miniature's world one in which detail must be imagined? Three gates, measured on held-out scenes.

1. *Invisible*: the fine detail lies above what the native clip holds. The best linear filter leaves nearly all of it.
2. *Inferable*: it follows from the native clip all the same. A plain pixel network, trained for minutes, finds most.
3. *Holdable*: the VAE keeps it, in clips of moving shapes and in stills; else no arm behind that VAE can show it.

The detail is what `band_error` measures: everything else about the picture is left out.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from numpy.typing import NDArray

from vibe_pipeline.diffusion.linear_filter import LinearFilter, fit_linear_filter
from vibe_pipeline.diffusion.models import decode_video, encode_video
from vibe_pipeline.evaluation.metrics.detail import band_error, psnr
from vibe_pipeline.miniature.pairs import FINE_BAND, Pairs, Pixels, Sizes
from vibe_pipeline.miniature.pixel_network import Network, enlarge
from vibe_pipeline.miniature.scene import Scene, sample_scenes
from vibe_pipeline.miniature.world import STILL_STYLE, VIDEO_STYLE, render

LEAST_LINEAR_ERROR = 0.9
MOST_NETWORK_ERROR = 0.5
MOST_VAE_ERROR = 0.25
LEAST_VAE_PSNR = 36.0


@dataclass(frozen=True)
class Gate:
    """One measured figure beside the one it must reach."""

    name: str
    value: float
    goal: float
    at_most: bool = field(default=True)

    @property
    def passed(self) -> bool:
        """Whether the figure reaches its goal; NaN does not."""
        return self.value <= self.goal if self.at_most else self.value >= self.goal


def _unit(pixels: Pixels) -> NDArray[np.floating]:
    return pixels.astype(np.float32) / 255


def fitted_filter(pairs: Pairs) -> LinearFilter:
    """The best linear filter on these pairs."""
    return fit_linear_filter((_unit(a), _unit(b)) for a, b in zip(pairs.native, pairs.target, strict=True))


def remaining_error(restored: NDArray[np.float32], pairs: Pairs, band: tuple[float, float]) -> float:
    """Mean band error of restored frames [N, H, W, 3], one a scene."""
    truth = _unit(pairs.target)
    return float(np.mean([band_error(r[None], t[None], *band) for r, t in zip(restored, truth, strict=True)]))


def invisible(training: Pairs, held_out: Pairs, band: tuple[float, float] = FINE_BAND) -> Gate:
    """Gate 1: what the best linear filter leaves."""
    restored = fitted_filter(training)(_unit(held_out.native)).clip(0, 1)
    error = remaining_error(restored, held_out, band)
    return Gate("invisible: band error of the best linear filter", error, LEAST_LINEAR_ERROR, at_most=False)


def inferable(network: Network, held_out: Pairs, band: tuple[float, float] = FINE_BAND) -> Gate:
    """Gate 2: what a plain pixel network leaves; the shipped one is an arm of its own."""
    error = remaining_error(enlarge(network, _unit(held_out.native)), held_out, band)
    return Gate("inferable: band error of a plain pixel network", error, MOST_NETWORK_ERROR)


def read_vae(folder: Path) -> AutoencoderKLWan:
    """A VAE out of its own diffusers folder, 32 bit.

    Raises:
        ValueError: The folder does not hold one.
    """
    if not (folder / "config.json").exists():
        raise ValueError(f"{folder} holds no VAE: there is no config.json in it; give the folder of the VAE itself")
    return AutoencoderKLWan.from_pretrained(folder).eval()


def holdable(
    vae: AutoencoderKLWan, sizes: Sizes, progress: Callable[[list[Scene]], Iterable[Scene]] = iter
) -> list[Gate]:
    """Gate 3: what the VAE loses of moving clips and of stills at the target size.

    The worst frame is a gate of its own: a smear shows in the frames that share a latent, and only there.
    """
    scenes = sample_scenes(np.random.default_rng([sizes.seed, 1]), sizes.held_out_scenes, held_out=True)
    clips, stills = [], []
    for scene in progress(scenes):
        clips.append(_through(vae, render(scene, sizes.target, sizes.target, sizes.frames, VIDEO_STYLE), sizes.band))
        stills.append(_through(vae, render(scene, sizes.target, sizes.target, 1, STILL_STYLE), sizes.band))
    by_frame = np.mean([c.by_frame for c in clips], 0)
    return [
        Gate("holdable: band error of clips through the VAE", _mean(clips, "error"), MOST_VAE_ERROR),
        Gate(f"holdable: the same in the worst frame ({by_frame.argmax()})", float(by_frame.max()), MOST_VAE_ERROR),
        Gate("holdable: band error of stills through the VAE", _mean(stills, "error"), MOST_VAE_ERROR),
        Gate("holdable: PSNR of clips through the VAE, dB", _mean(clips, "psnr"), LEAST_VAE_PSNR, at_most=False),
        Gate("holdable: PSNR of stills through the VAE, dB", _mean(stills, "psnr"), LEAST_VAE_PSNR, at_most=False),
    ]


@dataclass(frozen=True)
class _Loss:
    error: float
    psnr: float
    by_frame: list[float]


def _through(vae: AutoencoderKLWan, clip: NDArray[np.float32], band: tuple[float, float]) -> _Loss:
    with torch.inference_mode():
        pixels = torch.from_numpy(clip).permute(3, 0, 1, 2)[None]
        back = decode_video(vae, encode_video(vae, pixels))[0].permute(1, 2, 3, 0).numpy()
    by_frame = [band_error(b[None], t[None], *band) for b, t in zip(back, clip, strict=True)]
    return _Loss(band_error(back, clip, *band), psnr(back, clip), by_frame)


def _mean(losses: list[_Loss], name: str) -> float:
    return math.fsum(getattr(loss, name) for loss in losses) / len(losses)
