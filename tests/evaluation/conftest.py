"""Tiny lossless clips, generated."""

from collections.abc import Callable
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

FRAMES, SIZE, FPS = 9, 64, 8.0


def write(path: Path, frames: NDArray[np.uint8], fps: float = FPS) -> Path:
    """Write [T, H, W, 3] bytes losslessly."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = frames.shape[1:3]
    writer = imageio_ffmpeg.write_frames(
        str(path),
        (width, height),
        fps=fps,
        quality=None,
        codec="libx264rgb",
        pix_fmt_out="rgb24",
        output_params=["-qp", "0"],
        macro_block_size=1,
    )
    writer.send(None)
    for frame in frames:
        writer.send(np.ascontiguousarray(frame))
    writer.close()
    return path


def noisy(sigma: float, seed: int, frames: int = FRAMES) -> NDArray[np.uint8]:
    """A fixed random picture with fresh noise of `sigma` grey levels in each frame."""
    rng = np.random.default_rng(seed)
    picture = rng.uniform(60, 190, (1, SIZE, SIZE, 3))
    return (picture + sigma * rng.standard_normal((frames, SIZE, SIZE, 3))).clip(0, 255).round().astype(np.uint8)


@pytest.fixture(scope="session")
def clip_table(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Two arms x two prompts x one seed; the second arm is noisier."""
    folder = tmp_path_factory.mktemp("clips")
    rows = []
    for arm, sigma in (("full", 2.0), ("base", 12.0)):
        for prompt_index, prompt in enumerate(("a red circle", "a blue square")):
            # The same file name in each arm's folder: staging has to keep them apart.
            path = write(folder / arm / f"p{prompt_index}-0.mp4", noisy(sigma * (1 + prompt_index), prompt_index))
            rows.append((arm, prompt_index, prompt, 0, str(path), FPS, FRAMES, SIZE, SIZE))
    names = ["arm", "prompt_index", "prompt", "seed", "path", "fps", "frames", "height", "width"]
    return pd.DataFrame(rows, columns=names)


@pytest.fixture
def with_row() -> Callable[..., pd.DataFrame]:
    """Append a copy of the last row with some fields changed."""

    def append(table: pd.DataFrame, **changes: object) -> pd.DataFrame:
        return pd.concat([table, table.tail(1).assign(**changes)], ignore_index=True)

    return append


@pytest.fixture
def write_clip() -> Callable[..., Path]:
    """The writer of lossless clips."""
    return write
