"""Where the object of a scene is, from its shape and path alone: what was rendered is held against it."""

import numpy as np

from vibe_pipeline.miniature.scene import Scene
from vibe_pipeline.miniature.world import centre_path, coverage, pixel_grid, signed_distance


def object_mask(scene: Scene, height: int, width: int, frames: int) -> np.ndarray:
    """Share of each pixel that the object covers, outline included, through no camera, [frames, height, width]."""
    x, y = pixel_grid(height, width)
    path = centre_path(scene, frames)
    distances = [signed_distance(scene.shape, x - cx, y - cy, scene.radius) for cx, cy in path]
    return coverage(np.stack(distances), 1 / height)
