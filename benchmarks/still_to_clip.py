"""How much of what an adapter learned on stills does it do in clips? One evaluation from the enlarged native picture.

python benchmarks/still_to_clip.py data/06_models/adapters/by_name/full_pixel/pytorch_lora_weights.safetensors

A still has one latent frame, a clip of nine frames three, each later one of four frames. Every row is the same held-out
scenes; only the style (of training stills, or of videos) and the number of frames change.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import vibe_pipeline  # noqa: F401  before diffusers: it makes torchvision importable
from vibe_pipeline.diffusion.checkpoint import find_model
from vibe_pipeline.diffusion.flow import add_noise
from vibe_pipeline.diffusion.lora import load_adapter
from vibe_pipeline.diffusion.models import (
    decode_video,
    encode_texts,
    encode_video,
    load_transformer,
    load_vae,
    velocity_predictor,
)
from vibe_pipeline.evaluation.metrics.detail import band_error, psnr
from vibe_pipeline.images.resize import enlarge
from vibe_pipeline.miniature.pairs import FINE_BAND
from vibe_pipeline.miniature.scene import Scene, sample_scenes
from vibe_pipeline.miniature.world import STILL_STYLE, VIDEO_STYLE, Style, render

CPU, DTYPE = torch.device("cpu"), torch.float32
NATIVE, TARGET, FRAMES, TEXT_LENGTH = 48, 144, 9, 16


@dataclass(frozen=True)
class Shown:
    """Scenes as one row sees them."""

    words: str
    style: Style
    frames: int


ROWS = (
    Shown("stills, one frame", STILL_STYLE, 1),
    Shown("videos, their first frame alone", VIDEO_STYLE, 1),
    Shown("stills' colours, nine frames", STILL_STYLE, FRAMES),
    Shown("videos, nine frames", VIDEO_STYLE, FRAMES),
)


class Restorer:
    """The base with an adapter: the clean picture of a degraded one, in one evaluation."""

    def __init__(self, model: Path, adapter: Path) -> None:
        self.model = find_model(str(model))
        self.vae = load_vae(self.model, CPU)
        self.transformer = load_transformer(self.model, CPU, DTYPE)
        load_adapter(self.transformer, adapter, "stage2")

    @torch.inference_mode()
    def __call__(self, scenes: list[Scene], shown: Shown, sigma: float) -> list[tuple[float, float, float, float]]:
        """Of each scene: band error and PSNR of the VAE alone, and of the adapter."""
        texts = encode_texts(self.model, [s.caption for s in scenes], TEXT_LENGTH, CPU, DTYPE)
        generator = torch.Generator().manual_seed(0)
        found = []
        for scene, text in zip(scenes, texts, strict=True):
            native, truth = (
                render(scene, side, side, FRAMES, shown.style)[: shown.frames] for side in (NATIVE, TARGET)
            )
            pixels = torch.from_numpy(np.rint(native * 255) / 255).float().permute(3, 0, 1, 2)[None]
            latent = encode_video(self.vae, enlarge(pixels, TARGET, TARGET))
            level = torch.tensor([sigma])
            noised = add_noise(latent, torch.randn(latent.shape, generator=generator), level)
            predict = velocity_predictor(self.transformer, text[None], self.model.expand_timesteps, DTYPE)
            clean = noised - sigma * predict(noised, level)
            row = []
            for made in (latent, clean):
                picture = decode_video(self.vae, made)[0].permute(1, 2, 3, 0).numpy()
                row += [band_error(picture, truth, *FINE_BAND), psnr(picture, truth)]
            found.append(tuple(row))
        return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter", type=Path, help="weights of a stage-2 adapter of the miniature")
    parser.add_argument("--model", type=Path, default=Path("data/06_models/base"))
    parser.add_argument("--scenes", type=int, default=16)
    parser.add_argument("--sigma", type=float, nargs="+", default=[0.06, 0.136], help="noise levels")
    args = parser.parse_args()
    torch.set_num_threads(1)
    scenes = sample_scenes(np.random.default_rng([12, 1]), args.scenes, held_out=True)
    restorer = Restorer(args.model, args.adapter)
    print(f"{'band error, PSNR in dB':34}{'VAE alone':>16}" + "".join(f"{f'sigma {s:g}':>16}" for s in args.sigma))
    for shown in ROWS:
        means = [np.mean(restorer(scenes, shown, sigma), axis=0) for sigma in args.sigma]
        pairs = [means[0][:2], *(mean[2:] for mean in means)]
        print(f"{shown.words:34}" + "".join(f"{f'{error:.3f}, {decibels:.1f}':>16}" for error, decibels in pairs))


if __name__ == "__main__":
    main()
