"""Tiny lossless clips, generated."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

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


@pytest.fixture(scope="session")
def standins() -> ModuleType:
    """The makers of stand-in weights, tests/evaluation/standins.py."""
    spec = importlib.util.spec_from_file_location("standins", Path(__file__).with_name("standins.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def weights(standins: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder with a stand-in for every weight that VBench wants without detectron2 and Tag2Text."""
    if importlib.util.find_spec("vbench") is None:
        pytest.skip("vbench is not installed")
    from vibe_pipeline.vbench.surroundings import offline, point_to_cache, quiet

    cache = tmp_path_factory.mktemp("vbench_cache")
    with offline(cache, tmp_path_factory.mktemp("making")), quiet():
        standins.put_vocabulary(cache)
        import vbench.utils  # noqa: F401

        point_to_cache(cache)
        return standins.write_all(cache)


@pytest.fixture(scope="session")
def moving_clips(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Three clips of a pattern that moves: lossless, lossless and long-sided, and in the usual lossy form."""
    folder = tmp_path_factory.mktemp("moving")
    rows = []
    for number, (frames, height, width, lossy) in enumerate(
        [(3, 128, 128, False), (3, 64, 544, False), (5, 128, 128, True)]
    ):
        pixels = moving(frames, height, width, number)
        path = write(folder / f"clip{number}.mp4", pixels) if not lossy else write_lossy(folder / "lossy.mp4", pixels)
        prompt = ("a red circle", "a person is riding, a bike", "waves at dusk")[number]
        rows.append(("full", number, prompt, 0, str(path), FPS, frames, height, width))
    names = ["arm", "prompt_index", "prompt", "seed", "path", "fps", "frames", "height", "width"]
    return pd.DataFrame(rows, columns=names)


def moving(frames: int, height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """A smooth random picture, rolled by three pixels a frame, with a little noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(20, 235, (height // 16, width // 16, 3)).repeat(16, 0).repeat(16, 1)
    clip = np.stack([np.roll(coarse, 3 * i, 1) for i in range(frames)]) + rng.normal(0, 2, (frames, height, width, 3))
    return clip.clip(0, 255).round().astype(np.uint8)


def write_lossy(path: Path, frames: NDArray[np.uint8]) -> Path:
    """Write H.264 in yuv420p, as clips are shared."""
    height, width = frames.shape[1:3]
    writer = imageio_ffmpeg.write_frames(str(path), (width, height), fps=FPS, quality=6, macro_block_size=1)
    writer.send(None)
    for frame in frames:
        writer.send(np.ascontiguousarray(frame))
    writer.close()
    return path
