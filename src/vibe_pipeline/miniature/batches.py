"""What the miniature's networks are trained on, as it is rendered; imports little, since many processes do it."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vibe_pipeline.miniature.scene import Scene, sample_scene, sample_scenes
from vibe_pipeline.miniature.world import STILL_STYLE, VIDEO_STYLE, centre_path, render

SHARD = 250
"""Clips that are rendered and encoded together."""


def shard_scenes(index: int, seed: int) -> list[Scene]:
    """Scenes of a shard of training clips."""
    return sample_scenes(np.random.default_rng([seed, index]), SHARD, held_out=False)


def rendered(scenes: list[Scene], size: int, frames: int) -> Tensor:
    """Native clips of scenes, [n, 3, T, size, size] in [-1, 1]."""
    clips = np.stack([render(scene, size, size, frames) for scene in scenes])
    return torch.from_numpy(clips).permute(0, 4, 1, 2, 3) * 2 - 1


def draw_shard(index: int, seed: int, size: int, frames: int) -> tuple[Tensor, list[str]]:
    """A shard of training clips, [SHARD, 3, T, size, size] in [-1, 1], and their captions."""
    scenes = shard_scenes(index, seed)
    return rendered(scenes, size, frames), [scene.caption for scene in scenes]


def draw_pictures(rng: np.random.Generator, native: int, frames: int, clips: int, factor: int = 3) -> Tensor:
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
