"""True pairs of frames, native and target, of scenes to train on and of held-out ones."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vibe_pipeline.miniature.scene import Scene, sample_scenes
from vibe_pipeline.miniature.world import render

FINE_BAND = (30.0, 45.0)
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Sizes:
    """What the gates are measured on: sides in pixels, frames of a clip, scenes to fit on and held-out ones."""

    native: int = 48
    target: int = 144
    frames: int = 9
    training_scenes: int = 600
    held_out_scenes: int = 64
    band: tuple[float, float] = FINE_BAND
    seed: int = 0


@dataclass(frozen=True)
class Pairs:
    """One frame a scene at both sizes, 8 bit as clips are stored: [N, h, w, 3] and [N, H, W, 3]."""

    native: Pixels
    target: Pixels


def draw_pairs(sizes: Sizes, held_out: bool) -> Pairs:
    """Frames from anywhere in the clips of scenes to fit on, or of held-out ones."""
    rng = np.random.default_rng([sizes.seed, int(held_out)])
    scenes = sample_scenes(rng, sizes.held_out_scenes if held_out else sizes.training_scenes, held_out)
    shown = rng.integers(0, sizes.frames, len(scenes))
    return Pairs(_frames(scenes, shown, sizes.native, sizes), _frames(scenes, shown, sizes.target, sizes))


def _frames(scenes: list[Scene], shown: NDArray[np.integer], side: int, sizes: Sizes) -> Pixels:
    return np.stack([_rounded(render(s, side, side, sizes.frames)[i]) for s, i in zip(scenes, shown, strict=True)])


def _rounded(frame: NDArray[np.float32]) -> Pixels:
    return np.rint(frame * 255).astype(np.uint8)
