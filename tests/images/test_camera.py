"""The native camera's blur in the cached latents, against scipy's Gaussian and the VAE of diffusers."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from PIL import Image
from scipy import ndimage
from torch import Tensor

from vibe_pipeline.diffusion.models import find_model
from vibe_pipeline.experiment.data import DataParams
from vibe_pipeline.images.cache import LatentCache, build_cache

HIGH, LOW, NATIVE = (96, 144), (64, 96), (32, 48)  # three sizes, so that none stands in for another


def taken(image: np.ndarray, size: tuple[int, int], blur: float) -> Tensor:
    """[1, 3, h, w]: a Gaussian of `blur` pixels of the small picture, then antialiased bicubic."""
    if blur:
        sigma = blur * HIGH[0] / size[0]
        image = ndimage.gaussian_filter(image, (sigma, sigma, 0), mode="mirror", radius=(*[round(3 * sigma)] * 2, 0))
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    return F.interpolate(pixels, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)


def encoded(vae: AutoencoderKLWan, pixels: Tensor) -> Tensor:
    mean, std = (torch.tensor(s).view(-1, 1, 1, 1) for s in (vae.config.latents_mean, vae.config.latents_std))
    with torch.no_grad():
        return (vae.encode(2 * pixels[:, :, None] - 1).latent_dist.mode()[0] - mean) / std


@pytest.mark.parametrize("blur", [0.0, 0.8])
def test_low_and_pixel_latents_are_of_what_the_camera_takes(wan21, tmp_path: Path, blur: float) -> None:
    rows = []
    for i in range(3):
        picture = np.random.default_rng(i).integers(0, 256, (*HIGH, 3), dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
        rows.append({"path": str(tmp_path / f"{i}.png"), "caption": "a plain red circle", "sha256": f"sha{i}"})
    sizes = {name: {"height": s[0], "width": s[1]} for name, s in (("low", LOW), ("high", HIGH))}
    data = DataParams(path=tmp_path, **sizes, buckets="single", camera_blur=blur, held_out=1)
    manifest = build_cache(pd.DataFrame(rows), find_model(str(wan21.path)), wan21.model(), data, tmp_path / "cache")
    vae = AutoencoderKLWan.from_pretrained(wan21.path, subfolder="vae")
    cache = LatentCache(manifest)
    for index, entry in enumerate(cache.entries):
        image = np.asarray(Image.open(tmp_path / f"{entry.sha256[3:]}.png"), np.float32) / 255
        enlarged = F.interpolate(taken(image, NATIVE, blur), HIGH, mode="bicubic", align_corners=False).clamp(0, 1)
        expected = {"low": taken(image, LOW, blur), "pixel": enlarged, "high": taken(image, HIGH, 0.0)}
        for part, pixels in expected.items():
            wanted = encoded(vae, pixels)
            ours, scale = cache.batch(part, [index])[0], wanted.std()
            torch.testing.assert_close(
                ours / scale, wanted / scale, rtol=0, atol=5e-3, msg=lambda s, p=part: f"{p}: {s}"
            )
