"""What a clip shows, read back from its pixels: shape, colours, texture, motion; possible as the world is known.

All measures work at any resolution and take RGB float clips [frames, height, width, 3] in [0, 1].
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.signal import fftconvolve

from vibe_pipeline.miniature.scene import BACKGROUNDS, COLOURS, DIRECTIONS, SHAPES, parse_caption
from vibe_pipeline.miniature.world import coverage, pixel_grid, signed_distance

Array = NDArray[np.float32]

SANE_TRAVEL = (0.2, 0.55)
SANE_AREA = (0.4, 1.8)
EXPECTED_AREA = 0.105
LEAST_TEXTURE = 0.03
RIBBED_COHERENCE = 0.5


@dataclass(frozen=True)
class Reading:
    """What was read from a clip; lengths in frame heights."""

    shape: str
    colour: str
    background: str
    texture: str
    direction: str
    travel: float
    area: float
    one_object: bool

    def right(self, truth: Mapping[str, str]) -> dict[str, bool]:
        """Compare with a caption's attributes (see `scene.parse_caption`)."""
        sane = SANE_TRAVEL[0] <= self.travel <= SANE_TRAVEL[1]
        return {
            "colours_right": self.colour == truth["colour"] and self.background == truth["background"],
            "motion_right": self.direction == truth["direction"] and sane,
            "shape_right": self.shape == truth["shape"],
            "texture_right": self.texture == truth["texture"],
            "one_object": self.one_object,
        }


def read_clip(clip: Array) -> Reading:
    """Read a clip of one object over a background."""
    saliency, background = object_saliency(clip)
    masks = saliency > 0.5
    centres, areas = _centres(masks)
    move = centres[-1] - centres[0]
    directions = {name: float(np.dot(move, d)) for name, d in DIRECTIONS.items()}
    core = np.stack([ndimage.binary_erosion(m, iterations=max(1, clip.shape[1] // 40)) for m in masks])
    inside = clip[core] if core.any() else clip[masks] if masks.any() else clip.reshape(-1, 3)
    return Reading(
        shape=_best_shape(saliency, areas),
        colour=_nearest(_between_tones(inside), COLOURS),
        background=_nearest(background, BACKGROUNDS),
        texture=_texture(clip, saliency),
        direction=max(directions, key=lambda name: directions[name]),
        travel=float(np.hypot(*move)),
        area=float(np.median(areas)),
        one_object=_one_object(masks, float(np.median(areas))),
    )


def share_right(shown: Iterable[tuple[Array, str]]) -> dict[str, float]:
    """Share of clips that show what their captions say, by attribute.

    Args:
        shown: Clips, each with its caption; one at least.
    """
    right = [read_clip(clip).right(parse_caption(caption)) for clip, caption in shown]
    return {name: float(np.mean([reading[name] for reading in right])) for name in right[0]}


def object_saliency(clip: Array) -> tuple[Array, Array]:
    """How unlike the background each pixel is, [frames, height, width] in [0, 1], and the background's RGB.

    Textures are grey, so a difference in chroma is the object's; a difference in brightness counts only
    beyond what textures reach (white over gray).
    """
    edge = max(2, clip.shape[1] // 12)
    ring = np.concatenate(
        [clip[:, :edge].reshape(-1, 3), clip[:, -edge:].reshape(-1, 3), clip[:, :, :edge].reshape(-1, 3),
         clip[:, :, -edge:].reshape(-1, 3)]
    )  # fmt: skip
    background = _between_tones(ring)
    smooth = ndimage.gaussian_filter(clip, (0, clip.shape[1] / 64, clip.shape[1] / 64, 0))
    difference = smooth - background
    brightness = difference.mean(-1)
    chroma = np.linalg.norm(difference - brightness[..., None], axis=-1)
    return np.clip(np.maximum(chroma / 0.26, np.abs(brightness) / 0.5), 0, 1).astype(np.float32), background


def _texture(clip: Array, saliency: Array) -> str:
    """The background's texture, "" where it is flat or hidden: ribs change along one direction, a weave along two.

    Coherence of the structure tensor where the object never is, 1 for stripes and 0 for checks (Bigun and
    Granlund, ICCV 1987). True scenes lie above 0.99 and below 0.07.
    """
    free = ndimage.binary_erosion(saliency.max(0) < 0.3, iterations=max(1, clip.shape[1] // 24))
    grey = clip.mean((0, -1))
    if not free.any() or grey[free].std() < LEAST_TEXTURE:
        return ""
    smooth = clip.shape[1] / 64
    along, down = (ndimage.gaussian_filter(grey, smooth, order=order)[free] for order in ((0, 1), (1, 0)))
    across, both = (along**2).sum() - (down**2).sum(), 2 * (along * down).sum()
    coherence = np.hypot(across, both) / ((along**2).sum() + (down**2).sum())
    return "ribbed" if coherence > RIBBED_COHERENCE else "woven"


def _between_tones(pixels: Array) -> Array:
    """The colour a two-tone pattern lies around, of pixels [N, 3]; the colour itself where there is no pattern."""
    return np.quantile(pixels, (0.2, 0.8), axis=0).mean(0)


def _centres(masks: NDArray[np.bool_]) -> tuple[Array, Array]:
    height = masks.shape[1]
    x, y = pixel_grid(*masks.shape[1:])
    areas = masks.sum((1, 2)) / height**2
    weight = np.maximum(masks.sum((1, 2)), 1)
    centres = np.stack([(masks * x).sum((1, 2)) / weight, (masks * y).sum((1, 2)) / weight], 1)
    return centres.astype(np.float32), areas.astype(np.float32)


def _best_shape(saliency: Array, areas: Array) -> str:
    """Template match: the best normalised correlation over sizes and small shifts, summed over frames."""
    coarse = max(1, saliency.shape[1] // 64)
    saliency = ndimage.zoom(saliency, (1, 1 / coarse, 1 / coarse), order=1) if coarse > 1 else saliency
    height, width = saliency.shape[1:]
    x, y = pixel_grid(height, width)
    scale = float(np.sqrt(np.clip(np.median(areas), 0.04, 0.3) / EXPECTED_AREA))
    best = {}
    for shape in SHAPES:
        scores = []
        for radius in 0.2 * scale * np.array([0.85, 0.95, 1.05, 1.15]):
            template = coverage(signed_distance(shape, x - 0.5, y - 0.5, radius), 3.5 / height)
            scores.append(sum(_correlation(frame, template) for frame in saliency[:: max(1, len(saliency) // 3)]))
        best[shape] = max(scores)
    return max(best, key=lambda name: best[name])


def _correlation(frame: Array, template: Array) -> float:
    t = template - template.mean()
    f = frame - frame.mean()
    return float(fftconvolve(f, t[::-1, ::-1], mode="same").max() / (np.linalg.norm(t) * np.linalg.norm(f) + 1e-6))


def _one_object(masks: NDArray[np.bool_], area: float) -> bool:
    single = []
    for mask in masks:
        labels, _ = ndimage.label(mask)
        sizes = np.sort(np.bincount(labels.ravel())[1:])[::-1]
        single.append(len(sizes) > 0 and (len(sizes) == 1 or sizes[1] < 0.15 * sizes[0]))
    return bool(np.mean(single) >= 0.8 and SANE_AREA[0] <= area / EXPECTED_AREA <= SANE_AREA[1])


def _nearest(rgb: Array, palette: Mapping[str, tuple[float, float, float]]) -> str:
    return min(palette, key=lambda name: float(np.linalg.norm(rgb - np.array(palette[name]))))
