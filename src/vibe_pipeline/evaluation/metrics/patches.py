"""Imaging quality at full resolution: VBench's own model for it (MUSIQ), on tiles instead of a shrunk frame.

VBench's imaging_quality shrinks the long side to 512 pixels, so it cannot tell 4K from an enlarged native clip. Here
each frame is cut into tiles of that size and none is shrunk; a frame that fits one tile gets VBench's own score.
Needs the package pyiqa and the weights of imaging_quality. Direction: higher is better.
Source: MUSIQ (Ke et al., ICCV 2021), weights trained on SPAQ, as in VBench's imaging_quality.
"""

import importlib.util
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vibe_pipeline.io.keys import content_key
from vibe_pipeline.io.metric import Metric
from vibe_pipeline.io.score_table import Place, score_row, score_table
from vibe_pipeline.io.video import read_frames
from vibe_pipeline.vbench.dimensions import dimension_of
from vibe_pipeline.vbench.kept_scores import ScoreStore, weights_fingerprint

if TYPE_CHECKING:
    import torch

PATCH_QUALITY = Metric(
    name="patch_imaging_quality",
    label="Patch imaging quality",
    explanation="MUSIQ, as in imaging quality, on tiles of full-size frames: nothing is shrunk.",
    direction="higher",
    family="detail",
)
METRIC = PATCH_QUALITY.name
TILE = 512  # pixels: what VBench's imaging_quality shows of a frame
FRAMES = 16  # evenly spaced; a 4K frame has 40 tiles
BATCH = 8
Score = Callable[["torch.Tensor"], "torch.Tensor"]


def patch_quality(frames: Iterator[NDArray[np.uint8]], score: Score) -> float:
    """Mean score of the tiles of some frames.

    Args:
        frames: RGB [H, W, 3] each, one at a time.
        score: Takes tiles [N, 3, h, w] in [0, 1], gives N scores in 0 to 100.

    Returns:
        On VBench's scale, 0 to 1.

    Raises:
        ValueError: There is no frame.
    """
    import torch

    means = []
    for frame in frames:
        cut = tiles(frame)
        parts = [torch.from_numpy(np.stack(cut[i : i + BATCH])) for i in range(0, len(cut), BATCH)]
        scores = [score(part.permute(0, 3, 1, 2).float() / 255).flatten() for part in parts]
        means.append(float(torch.cat(scores).mean()))
    if not means:
        raise ValueError("no frames to score")
    return float(np.mean(means)) / 100


def tiles(frame: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Tiles of one size that cover a frame [H, W, 3]; neighbours overlap where the size does not divide."""
    sizes = [min(TILE, length) for length in frame.shape[:2]]
    starts = [
        np.linspace(0, length - size, -(-length // size)).round().astype(int)
        for length, size in zip(frame.shape[:2], sizes, strict=True)
    ]
    return [frame[y : y + sizes[0], x : x + sizes[1]] for y, x in itertools.product(*starts)]


def spaced_frames(path: Path, total: int) -> Iterator[NDArray[np.uint8]]:
    """Up to :data:`FRAMES` evenly spaced frames of a clip of `total` frames, one in memory at a time.

    Raises:
        ValueError: The file cannot be read as a video.
    """
    chosen = set(np.linspace(0, total - 1, min(total, FRAMES)).round().astype(int).tolist())
    yield from (frame for index, frame in enumerate(read_frames(path)) if index in chosen)


def weights_file(cache_dir: Path) -> Path:
    """Where the model's weights are looked for."""
    return cache_dir / dimension_of("imaging_quality").weights[0].path


def score_patches(arm: str, clips: pd.DataFrame, cache_dir: Path, device: str, memory: Path) -> pd.DataFrame:
    """Rows of an arm: one a clip, or one that says why it is skipped.

    Args:
        arm: The arm's name, as it stands in the score table.
        clips: Columns key, prompt_index, seed, path, frames, height, width.
        cache_dir: VBench's folder of weights.
        device: What torch calls it.
        memory: Folder where each clip's score is kept as soon as it is there.

    Returns:
        The score table (see `clips`).
    """
    reason = _missing(cache_dir)
    if reason:
        return score_table([score_row(Place(arm), PATCH_QUALITY, status="skipped", reason=reason)])
    file, score, rows = weights_file(cache_dir), None, []
    version = content_key(METRIC, TILE, FRAMES, weights_fingerprint([file]))
    store = ScoreStore(memory / "patches")
    for clip in clips.itertuples(index=False):
        place, seen = Place(arm, clip.prompt_index, clip.seed), f"{clip.height}x{clip.width}"
        try:
            value = store.read(clip.key).get((METRIC, version))
            if value is None:
                score = score or _load(file, device)
                value = patch_quality(spaced_frames(Path(clip.path), clip.frames), score)
                store.add(clip.key, METRIC, version, value, np.nan)
            rows.append(score_row(place, PATCH_QUALITY, value, seen=seen))
        except ValueError as error:
            rows.append(score_row(place, PATCH_QUALITY, status="failed", reason=str(error)))
    return score_table(rows)


def _missing(cache_dir: Path) -> str:
    """Why it cannot be measured, or an empty string."""
    if importlib.util.find_spec("pyiqa") is None:
        return "skipped, because the package pyiqa is not installed"
    file = weights_file(cache_dir)
    if file.is_file() and file.stat().st_size:
        return ""
    command = "kedro vibe fetch-weights --dimensions imaging_quality"
    return f"skipped, because {file.name} is not at {file.parent}; get it with `{command}`"


def _load(file: Path, device: str) -> Score:
    import torch
    from pyiqa.archs.musiq_arch import MUSIQ

    model = MUSIQ(pretrained_model_path=str(file)).to(device)
    model.training = False  # as VBench sets it: the flag that pyiqa's own preparation of an image looks at

    def score(images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return model(images.to(device)).cpu()

    return score
