"""A procedural world of captioned moving scenes with hard edges, seen by a camera as sharp in pixels at every size.

One patterned shape moves in one direction over a textured background. Every region has one colour and ends at a
hard edge: stripes, checks and dots of widths drawn over more than an octave, the shape and its outline. The scene is
painted on a grid several times finer than the frame and seen through a Gaussian camera of CAMERA_SIGMA of the frame's
own pixels, so a frame of 48 pixels and one of 144 are the same scene seen by two cameras, each crisp at its size.

What lies above the native clip's Nyquist frequency is then of two kinds. *Inferable*: where an edge runs, to a
fraction of a native pixel, follows from the native pixels beside it, though by no linear filter: the camera has put
out the edge's high frequencies, and only knowing that edges are hard brings them back. *Random*: a faint grain, which
follows from nothing and measures what is invented. No stripe, dot or outline is narrower than 1.2 pixels of a
48-pixel frame. The gates (`benchmarks/gates.py`) measure both kinds.
"""

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vibe_pipeline.miniature.scene import BACKGROUNDS, COLOURS, CYCLES, DIRECTIONS, OBJECT_CYCLES, Scene

CAMERA_SIGMA = 0.6
PAINTED_HEIGHT = 288
FEWEST_PER_PIXEL = 2
MARGIN = 0.0625
BACKDROP_CONTRAST = 0.10
OBJECT_CONTRAST = 0.12
OUTLINE_WIDTH = 0.025
OUTLINE_SHADE = 0.45
DOT_RADIUS = 0.33
GRAIN_CYCLES = (30.0, 44.0)
GRAIN_AMPLITUDE = 0.0035
GRAIN_WAVES = 4
Array = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Style:
    """A photographer's hand: what makes the training stills look unlike the videos (0 is none)."""

    contrast: float = 0.0
    saturation: float = 0.0
    warmth: float = 0.0
    vignette: float = 0.0

    def times(self, strength: float) -> "Style":
        """The same hand, lighter or heavier."""
        return Style(**{name: strength * value for name, value in vars(self).items()})


VIDEO_STYLE = Style()
STILL_STYLE = Style(contrast=0.10, saturation=0.22, warmth=0.05, vignette=0.35)


def world_settings() -> dict[str, Any]:
    """All that decides how a scene looks beside the scene itself, for the keys of what is made from it."""
    return {
        "camera": CAMERA_SIGMA,
        "painted": [PAINTED_HEIGHT, FEWEST_PER_PIXEL],
        "contrast": [BACKDROP_CONTRAST, OBJECT_CONTRAST],
        "outline": [OUTLINE_WIDTH, OUTLINE_SHADE],
        "dots": DOT_RADIUS,
        "cycles": [*CYCLES, *OBJECT_CYCLES],
        "grain": [*GRAIN_CYCLES, GRAIN_AMPLITUDE, GRAIN_WAVES],
        "still": vars(STILL_STYLE),
    }


def centre_path(scene: Scene, frames: int) -> Array:
    """The object's centre in each frame, [frames, 2] as (x, y) in frame heights.

    A clip always spans the whole travel; a single frame shows the middle of it.
    """
    direction = np.array(DIRECTIONS[scene.direction], np.float32)
    along = np.linspace(-0.5, 0.5, frames, dtype=np.float32) if frames > 1 else np.zeros(1, np.float32)
    return np.array(scene.centre, np.float32) + along[:, None] * scene.travel * direction


def pixel_grid(height: int, width: int) -> tuple[Array, Array]:
    """Centres of a frame's pixels in frame heights, x [1, width] and y [height, 1]; the middle of the frame is 0.5."""
    y = (np.arange(height, dtype=np.float32) + 0.5) / height
    x = (np.arange(width, dtype=np.float32) + 0.5) / height - (width / height - 1) / 2
    return x[None, :], y[:, None]


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


def coverage(distance: Array, width: float) -> Array:
    """Share of a pixel `width` wide that lies inside, given its centre's signed distance."""
    return np.clip(0.5 - distance / width, 0, 1)


@dataclass(frozen=True)
class Canvas:
    """The fine grid a scene is painted on: pixel centres x [1, n] and y [m, 1] and pixel size, in frame heights."""

    x: Array
    y: Array
    pixel: float

    def part(self, x: float, y: float, reach: float) -> tuple[slice, slice]:
        """Rows and columns within `reach` of a point."""
        columns = np.searchsorted(self.x[0], [x - reach, x + reach])
        rows = np.searchsorted(self.y[:, 0], [y - reach, y + reach])
        return slice(*rows), slice(*columns)


@functools.lru_cache(maxsize=8)
def _optics(height: int, width: int, sigma: float) -> tuple[Canvas, Array, Array]:
    """The canvas of a frame size and the camera on its two axes, [height, rows] and [width, columns].

    The canvas reaches MARGIN beyond the frame, so that the camera sees no end of the scene. Its own pixels blur a
    little; the camera's Gaussian is narrower by as much.
    """
    per_pixel = max(FEWEST_PER_PIXEL, math.ceil(PAINTED_HEIGHT / height))
    pixel = 1 / (height * per_pixel)
    margin = math.ceil(MARGIN / pixel)
    x, y = pixel_grid(height, width)
    axes = []
    for centres in (x[0], y[:, 0]):
        start = centres[0] - 0.5 / height - margin * pixel
        axes.append((start + (np.arange(len(centres) * per_pixel + 2 * margin) + 0.5) * pixel).astype(np.float32))
    variance = (sigma / height) ** 2 - pixel**2 / 12
    cameras = []
    for centres, fine in ((y[:, 0], axes[1]), (x[0], axes[0])):
        weights = np.exp(-((centres[:, None] - fine[None]).astype(np.float64) ** 2) / (2 * variance))
        cameras.append((weights / weights.sum(1, keepdims=True)).astype(np.float32))
    return Canvas(axes[0][None, :], axes[1][:, None], pixel), cameras[0], cameras[1]


def _stripes(along: Array, period: float, pixel: float) -> Array:
    """Hard stripes of one half period each, -1 and 1."""
    off = np.abs(along - period * np.round(along / period)) - period / 4
    return 2 * coverage(off, pixel) - 1


def _pattern(
    kind: str, x: Array, y: Array, angle: float, cycles: float, phase: tuple[float, float], pixel: float
) -> Array:
    """A pattern of two tones, -1 and 1, with hard edges; `plain` is 0."""
    if kind == "plain":
        return np.zeros(np.broadcast_shapes(x.shape, y.shape), np.float32)
    period = 1 / cycles
    along = math.cos(angle) * x + math.sin(angle) * y + phase[0] / (2 * math.pi) * period
    if kind in ("striped", "ribbed"):
        return _stripes(along, period, pixel)
    across = -math.sin(angle) * x + math.cos(angle) * y + phase[1] / (2 * math.pi) * period
    if kind == "woven":
        return _stripes(along, period, pixel) * _stripes(across, period, pixel)
    along, across = along - period * np.round(along / period), across - period * np.round(across / period)
    return 2 * coverage(np.hypot(along, across) - DOT_RADIUS * period, pixel) - 1


def _grain(scene: Scene, canvas: Canvas) -> Array:
    """Faint random waves that follow from nothing coarse."""
    rng = np.random.default_rng(scene.grain_seed)
    grain = np.zeros((canvas.y.size, canvas.x.size), np.float32)
    cycles, angles = rng.uniform(*GRAIN_CYCLES, GRAIN_WAVES), rng.uniform(0, math.pi, GRAIN_WAVES)
    for omega, angle, phase in zip(2 * math.pi * cycles, angles, rng.uniform(0, 2 * math.pi, GRAIN_WAVES), strict=True):
        # cos(a + b) as an outer product of the two axes: far cheaper than a cosine per pixel
        wave = np.exp(1j * (omega * math.sin(angle) * canvas.y)) * np.exp(
            1j * (omega * math.cos(angle) * canvas.x + phase)
        )
        grain += GRAIN_AMPLITUDE * wave.real.astype(np.float32)
    return grain


def _backdrop(scene: Scene, canvas: Canvas) -> Array:
    tones = _pattern(
        kind=scene.texture,
        x=canvas.x,
        y=canvas.y,
        angle=scene.texture_angle,
        cycles=scene.texture_cycles,
        phase=scene.texture_phase,
        pixel=canvas.pixel,
    )
    grey = BACKDROP_CONTRAST * tones + _grain(scene, canvas)
    return np.array(BACKGROUNDS[scene.background], np.float32)[:, None, None] + grey


def _object(scene: Scene, x: Array, y: Array, pixel: float) -> tuple[Array, Array]:
    """The object around its centre: coverage [h, w] and colour [3, h, w]."""
    distance = signed_distance(scene.shape, x, y, scene.radius)
    inner = coverage(distance + OUTLINE_WIDTH, pixel)
    tones = _pattern(
        kind=scene.pattern,
        x=x,
        y=y,
        angle=scene.object_angle,
        cycles=scene.object_cycles,
        phase=scene.object_phase,
        pixel=pixel,
    )
    colour = np.array(COLOURS[scene.colour], np.float32)[:, None, None]
    shade = OUTLINE_SHADE + (1 - OUTLINE_SHADE) * inner
    return coverage(distance, pixel), colour * shade + inner * OBJECT_CONTRAST * tones


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
    canvas, rows, columns = _optics(height, width, CAMERA_SIGMA)
    backdrop = _backdrop(scene, canvas)
    seen = rows @ backdrop @ columns.T
    clip = np.empty((frames, 3, height, width), np.float32)
    for i, (cx, cy) in enumerate(centre_path(scene, frames)):
        # The camera is linear, so only the object's surroundings are painted and seen again.
        ys, xs = canvas.part(float(cx), float(cy), 1.5 * scene.radius)
        inside, body = _object(scene, canvas.x[:, xs] - cx, canvas.y[ys] - cy, canvas.pixel)
        clip[i] = seen + rows[:, ys] @ (inside * (body - backdrop[:, ys, xs])) @ columns[:, xs].T
    return np.clip(grade(np.ascontiguousarray(clip.transpose(0, 2, 3, 1)), style), 0.0, 1.0)


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
