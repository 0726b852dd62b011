"""A procedural world of captioned moving scenes, rendered anti-aliased at any size and length.

One patterned shape moves in one direction over a textured background. Every texture is a sum of
sinusoids and every edge an error function of the signed distance (approximate at corners), so the camera's
blur is applied in closed form and no supersampling is needed: the same scene at 64, 128 or 256 pixels is the same
picture seen by a better camera.

Detail is of two kinds. *Restorable*: hard edges, the thin outline, and a fine pattern whose phase is
four times that of a coarse one, so that it follows from what the native clip shows. *Random*: a
grain of small amplitude, which follows from nothing. Only the first kind can be learnt by a model
that restores high frequencies; the second measures what is invented.

The coarse pattern (4 cycles per frame height) survives averaging of the latent, the fine one (16) does not,
and the camera (1.2 pixels) leaves the fine one 0.17 of its amplitude at 64 pixels and 0.64 at 128.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

from vibe_pipeline.miniature.scene import BACKGROUNDS, COLOURS, DIRECTIONS, Scene

FINE_RATIO = 4
GRAIN_CYCLES = (14.0, 22.0)
CAMERA_SIGMA = 1.2
OUTLINE_WIDTH = 0.022
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Style:
    """A photographer's hand: what makes the training stills look unlike the videos (0 is none)."""

    contrast: float = 0.0
    saturation: float = 0.0
    warmth: float = 0.0
    vignette: float = 0.0


VIDEO_STYLE = Style()
STILL_STYLE = Style(contrast=0.10, saturation=0.22, warmth=0.05, vignette=0.35)


def centre_path(scene: Scene, frames: int) -> Array:
    """The object's centre in each frame, [frames, 2] as (x, y) in frame heights.

    A clip always spans the whole travel; a single frame shows the middle of it.
    """
    direction = np.array(DIRECTIONS[scene.direction], np.float32)
    along = np.linspace(-0.5, 0.5, frames, dtype=np.float32) if frames > 1 else np.zeros(1, np.float32)
    return np.array(scene.centre, np.float32) + along[:, None] * scene.travel * direction


def pixel_grid(height: int, width: int) -> tuple[Array, Array]:
    y = (np.arange(height, dtype=np.float32) + 0.5) / height
    x = (np.arange(width, dtype=np.float32) + 0.5) / height - (width / height - 1) / 2
    return x[None, :], y[:, None]


def _transfer(cycles: float, sigma: float) -> float:
    """Gaussian camera: the amplitude a wave of `cycles` per frame height keeps; sigma in frame heights."""
    return math.exp(-2 * (math.pi * cycles * sigma) ** 2)


def signed_distance(shape: str, x: Array, y: Array, radius: float) -> Array:
    """Distance to the outline, negative inside; every shape covers a similar area."""
    if shape == "circle":
        return np.hypot(x, y) - radius
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - 0.87 * radius
    if shape == "triangle":
        slope = math.sqrt(3) / 2
        y = y - 0.18 * radius
        return np.maximum(y - 0.62 * radius, np.maximum(slope * x, -slope * x) - 0.5 * y - 0.68 * radius)
    arm, half = 1.08 * radius, 0.36 * radius
    horizontal = np.maximum(np.abs(x) - arm, np.abs(y) - half)
    vertical = np.maximum(np.abs(x) - half, np.abs(y) - arm)
    return np.minimum(horizontal, vertical)


def _pattern(
    kind: str, x: Array, y: Array, angle: float, cycles: float, phase: tuple[float, float], sigma: float
) -> Array:
    """Coarse waves plus fine ones locked to four times their phase, as the camera sees them; about ±0.17."""
    if kind == "plain":
        return np.zeros(np.broadcast_shapes(x.shape, y.shape), np.float32)
    omega = 2 * math.pi * cycles
    along = omega * (math.cos(angle) * x + math.sin(angle) * y) + phase[0]
    across = omega * (-math.sin(angle) * x + math.cos(angle) * y) + phase[1]
    coarse, fine = 0.095 * _transfer(cycles, sigma), 0.075 * _transfer(FINE_RATIO * cycles, sigma)
    if kind in ("striped", "ribbed"):
        return coarse * np.cos(along) + fine * np.cos(FINE_RATIO * along)
    wave = np.cos(along) + np.cos(across)
    return 0.7 * (coarse * wave + fine * (np.cos(FINE_RATIO * along) + np.cos(FINE_RATIO * across)))


def _grain(scene: Scene, x: Array, y: Array, sigma: float) -> Array:
    """Random waves that follow from nothing coarse; about 0.012 rms before the camera."""
    rng = np.random.default_rng(scene.grain_seed)
    grain = np.zeros(np.broadcast_shapes(x.shape, y.shape), np.float32)
    for cycles, angle, phase in zip(
        rng.uniform(*GRAIN_CYCLES, 4), rng.uniform(0, math.pi, 4), rng.uniform(0, 2 * math.pi, 4), strict=True
    ):
        omega = 2 * math.pi * cycles
        grain += 0.0085 * _transfer(cycles, sigma) * np.cos(omega * (math.cos(angle) * x + math.sin(angle) * y) + phase)
    return grain


def coverage(distance: Array, sigma: float) -> Array:
    return 0.5 * (1 - erf(distance / (math.sqrt(2) * sigma)))


def object_mask(scene: Scene, height: int, width: int, frames: int) -> Array:
    """Share of each pixel the object covers, outline included, [frames, height, width]."""
    x, y = pixel_grid(height, width)
    sigma = CAMERA_SIGMA / height
    distances = [signed_distance(scene.shape, x - cx, y - cy, scene.radius) for cx, cy in centre_path(scene, frames)]
    return np.stack([coverage(d, sigma) for d in distances]).astype(np.float32)


def render(scene: Scene, height: int, width: int, frames: int, style: Style = VIDEO_STYLE) -> Array:
    """Render a scene.

    Args:
        scene: What to show.
        height: Pixels; the scene's unit of length is the frame height.
        width: Pixels; a wider frame shows more background.
        frames: 1 for a still, else a clip that spans the whole motion.
        style: Colour grading; stills and videos differ in it.

    Returns:
        RGB in [0, 1], float32, [frames, height, width, 3].
    """
    x, y = pixel_grid(height, width)
    sigma = CAMERA_SIGMA / height
    backdrop = _pattern(
        kind=scene.texture,
        x=x,
        y=y,
        angle=scene.texture_angle,
        cycles=scene.texture_cycles,
        phase=scene.texture_phase,
        sigma=sigma,
    )
    backdrop = (backdrop + _grain(scene, x, y, sigma))[..., None] + np.array(BACKGROUNDS[scene.background], np.float32)
    colour = np.array(COLOURS[scene.colour], np.float32)
    clip = np.empty((frames, height, width, 3), np.float32)
    for i, (cx, cy) in enumerate(centre_path(scene, frames)):
        u, v = x - cx, y - cy
        distance = signed_distance(scene.shape, u, v, scene.radius)
        inside, core = coverage(distance, sigma)[..., None], coverage(distance + OUTLINE_WIDTH, sigma)[..., None]
        fill = _pattern(
            kind=scene.pattern,
            x=u,
            y=v,
            angle=scene.object_angle,
            cycles=scene.object_cycles,
            phase=scene.object_phase,
            sigma=sigma,
        )
        body = 0.45 * colour + core * (0.55 * colour + fill[..., None])
        clip[i] = backdrop * (1 - inside) + body * inside
    return np.clip(grade(clip, style), 0.0, 1.0)


def grade(clip: Array, style: Style) -> Array:
    """Apply a colour grade to RGB [..., height, width, 3]; the identity for the video style."""
    if style == VIDEO_STYLE:
        return clip
    grey = clip.mean(-1, keepdims=True)
    out = grey + (1 + style.saturation) * (clip - grey)
    out = 0.45 + (1 + style.contrast) * (out - 0.45)
    out = out + np.array([style.warmth, 0.0, -style.warmth], np.float32)
    x, y = pixel_grid(*clip.shape[-3:-1])
    return (out * (1 - style.vignette * ((x - 0.5) ** 2 + (y - 0.5) ** 2))[..., None]).astype(np.float32)
