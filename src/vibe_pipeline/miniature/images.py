"""The miniature's training images: stills of other scenes, with a style of their own (the gap of modality)."""

import csv
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from vibe_pipeline.experiment.data import DataParams
from vibe_pipeline.io.files import write_atomic
from vibe_pipeline.io.keys import content_key
from vibe_pipeline.miniature import scene as scene_module
from vibe_pipeline.miniature import world
from vibe_pipeline.runtime.progress import Progress


def render_images(data: DataParams) -> Path:
    """Render `data.count` captioned stills at the high resolution into a folder of their own; a complete one is kept.

    The folder follows the imagefolder convention: PNG files and a `metadata.csv` with file_name and text.
    """
    count = data.count or 640
    style = world.STILL_STYLE.times(data.still_style)
    key = content_key(data.seed, count, data.high.height, data.high.width, world.world_settings(), vars(style))
    folder = data.path / key
    if (folder / "metadata.csv").exists():  # written last
        return folder
    scenes = scene_module.sample_scenes(np.random.default_rng([data.seed, 77]), count, held_out=False)
    folder.mkdir(parents=True, exist_ok=True)
    for i, scene in enumerate(Progress(scenes, total=len(scenes), desc="rendering images", unit="image")):
        still = world.render(scene, data.high.height, data.high.width, 1, style)[0]
        image = Image.fromarray(np.rint(still * 255).astype(np.uint8))
        write_atomic(folder / f"{i:05d}.png", partial(image.save, format="PNG"))
    write_atomic(folder / "metadata.csv", lambda p: _write_captions(p, scenes))
    return folder


def _write_captions(path: Path, scenes: list[scene_module.Scene]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "text"])
        writer.writerows([f"{i:05d}.png", scene.caption] for i, scene in enumerate(scenes))
