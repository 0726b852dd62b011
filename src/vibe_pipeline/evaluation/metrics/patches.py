"""Quality of tiles of full-size frames, by networks that would otherwise see a shrunk frame or few pixels.

VBench's imaging_quality shrinks the long side to 512 pixels, so it cannot tell 4K from an enlarged native clip. Here
each frame is cut into tiles of that size and none is shrunk; a frame that fits one tile gets VBench's own score.
Needs the package pyiqa. Sources: MUSIQ (Ke et al., ICCV 2021), weights trained on SPAQ, as in VBench's
imaging_quality, or on KonIQ-10k, which papers mean by "MUSIQ" (pyiqa's default); NIQE (Mittal et al., IEEE Signal
Processing Letters 20, 2013). Tiles are ours, so figures compare only among themselves, not with those of whole frames.
"""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vibe_pipeline.evaluation.metrics.networks import FRAMES, FrameMean, FrameNetwork, Watcher
from vibe_pipeline.vbench.dimensions import dimension_of
from vibe_pipeline.vbench.readiness import fetch_command
from vibe_pipeline.vbench.weight_files import Weight

if TYPE_CHECKING:
    import torch

TILE = 512  # pixels: what VBench's imaging_quality shows of a frame
BATCH = 8
NIQE_TILE = 192  # pixels: two of its blocks each way, the fewest whose features have a covariance
PYIQA = "https://github.com/chaofengc/IQA-PyTorch/releases/download/v0.1-weights"
Score = Callable[["torch.Tensor"], "torch.Tensor"]
"""Takes tiles [N, 3, h, w] in [0, 1], gives N scores; NaN: the tile has none."""


def tile_mean(frame: NDArray[np.uint8], score: Score) -> float:
    """Mean score of a frame's tiles, on the network's own scale; of those that have one.

    Raises:
        ValueError: No tile has one.
    """
    import torch

    cut = tiles(frame)
    parts = [torch.from_numpy(np.stack(cut[i : i + BATCH])) for i in range(0, len(cut), BATCH)]
    scores = torch.cat([score(part.permute(0, 3, 1, 2).float() / 255).flatten() for part in parts])
    if scores.isnan().all():
        raise ValueError(f"none of the {len(cut)} tiles of a frame has a score: they are flat")
    return float(scores.nanmean())


def tiles(frame: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Tiles of one size that cover a frame [H, W, 3]; neighbours overlap where the size does not divide."""
    sizes = [min(TILE, length) for length in frame.shape[:2]]
    starts = [
        np.linspace(0, length - size, -(-length // size)).round().astype(int)
        for length, size in zip(frame.shape[:2], sizes, strict=True)
    ]
    return [frame[y : y + sizes[0], x : x + sizes[1]] for y, x in itertools.product(*starts)]


def load_musiq(files: Sequence[Path], device: str, scale: float = 1.0) -> Callable[[], Watcher]:
    """MUSIQ's score of tiles, times `scale`."""
    import torch
    from pyiqa.archs.musiq_arch import MUSIQ

    model = MUSIQ(pretrained_model_path=str(files[0])).to(device)
    model.training = False  # as VBench sets it: the flag that pyiqa's own preparation of an image looks at

    def score(images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return model(images.to(device)).cpu()

    return lambda: FrameMean(lambda frame: tile_mean(frame, score) * scale)


def load_niqe(files: Sequence[Path], device: str) -> Callable[[], Watcher]:
    """NIQE's score of tiles; one with a flat block has none."""
    import torch
    from pyiqa.archs.niqe_arch import NIQE

    model = NIQE(pretrained_model_path=str(files[0])).to(device)

    def score(images: torch.Tensor) -> torch.Tensor:
        """One score a tile [n, 3, y, x] -> [n], NaN where features are not finite; on error, tile by tile."""
        if min(images.shape[-2:]) < NIQE_TILE:
            seen = "x".join(map(str, images.shape[-2:]))
            raise ValueError(f"NIQE needs tiles of {NIQE_TILE}x{NIQE_TILE} pixels at least; these are {seen}")
        try:
            return model(images.to(device)).reshape(-1).cpu()
        except torch.linalg.LinAlgError:  # features that are not finite, of one tile at least
            if len(images) == 1:
                return torch.full((1,), torch.nan, dtype=torch.float64)
            return torch.cat([score(image[None]) for image in images])

    return lambda: FrameMean(lambda frame: tile_mean(frame, score))


PATCH_QUALITY = FrameNetwork(
    name="patch_imaging_quality",
    label="Patch imaging quality",
    explanation="MUSIQ, as in imaging quality, on tiles of full-size frames: nothing is shrunk.",
    direction="higher",
    family="detail",
    weights=dimension_of("imaging_quality").weights,
    folder="vbench_weights",
    command=fetch_command("imaging_quality"),
    packages=("pyiqa",),
    load=partial(load_musiq, scale=0.01),  # VBench's, 0 to 1
    settings=(TILE, FRAMES),
    teraflops=0.035 / 0.512**2,
)
PATCH_NETWORKS: tuple[FrameNetwork, ...] = (
    FrameNetwork(
        name="patch_musiq",
        label="Patch MUSIQ",
        explanation="MUSIQ trained on KonIQ-10k, the one that papers print, on tiles of 512 pixels of full-size "
        "frames, 0 to 100. It rewards noise that passes for grain, and judges a tile without its picture.",
        direction="higher",
        asked=True,
        weights=(Weight("musiq_koniq_ckpt-e95806b9.pth", f"{PYIQA}/musiq_koniq_ckpt-e95806b9.pth", "e95806b9"),),
        packages=("pyiqa",),
        load=load_musiq,
        settings=(TILE, FRAMES),
        teraflops=0.035 / 0.512**2,
    ),
    FrameNetwork(
        name="patch_niqe",
        label="Patch NIQE",
        explanation="How far the statistics of tiles of 512 pixels are from those of unspoilt photographs; 0 is none. "
        "It rewards noise in smooth pictures, which makes them as rough as photographs, and knows no content.",
        direction="lower",
        asked=True,
        weights=(Weight("niqe_modelparameters.mat", f"{PYIQA}/niqe_modelparameters.mat"),),
        packages=("pyiqa", "torchvision"),
        load=load_niqe,
        settings=(TILE, FRAMES, NIQE_TILE),
        seconds=0.55,
    ),
)
