"""Measures of an arm and not of a clip: how the features of all its clips are distributed, against real ones.

HD-FVD (UltraGen, arXiv 2510.18775, appendix D): clips are cut into patches of the network's own size that do not
overlap, and the Fréchet distance is taken between the features of all real and all generated patches. The network
decides the scale, so it stands in the name: figures of two networks are never one metric. Frames: UltraGen takes all,
PixelWizard's code 16 evenly spaced ones, which is what is done here, for a 4K clip's frames do not fit into memory; a
clip of fewer repeats its last. PixelWizard feeds r3d_18 pictures that are not normalised; here they are, as the
weights were trained.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vibe_pipeline.evaluation.metrics.frechet import Features, Spread, frechet_distance, moments, spread
from vibe_pipeline.evaluation.metrics.networks import FRAMES, Frame, Network, Watcher
from vibe_pipeline.vbench.weight_files import Weight

if TYPE_CHECKING:
    import torch

SIDE = 224  # pixels of a patch
I3D_FILE = Weight("i3d_torchscript.pt", "https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt?dl=1")
KINETICS_MEAN, KINETICS_DEVIATION = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)
Extract = Callable[["torch.Tensor"], "torch.Tensor"]
"""Takes patches [1, 3, T, 224, 224] in [0, 1], gives features [1, D]."""


@dataclass(frozen=True)
class Figure:
    """What is said of an arm.

    Attributes:
        value: The measure.
        low: Lower end of its interval; NaN where there is none.
        high: Upper end; NaN where there is none.
        note: From how many clips, and how far that makes it wrong.
        resamples: What it becomes when prompts are drawn again; the i-th is of the same draw in every arm that has the
            same prompts.
    """

    value: float
    low: float
    high: float
    note: str
    resamples: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Distribution(Network):
    """A metric of an arm: `load` gives watchers whose result is a clip's features [N, D].

    Attributes:
        figure: From the features of the arm's clips, the prompt of each, the features of the real ones (empty unless
            `real`), the confidence and the seed of resamples, to what is said.
        real: Clips of the folder `evaluation.real_clips` are needed.
    """

    figure: Callable[[Sequence[Features], Sequence[int], Sequence[Features], float, int], Figure]
    real: bool = True


class Patches:
    """Features of a clip's patches; the frames stay in memory until all are there, as bytes."""

    def __init__(self, extract: Extract, device: str):
        self._extract, self._device, self._frames = extract, device, list[Frame]()

    def take(self, frame: Frame) -> None:
        """Keep what patches cover of it."""
        height, width = frame.shape[:2]
        if min(height, width) < SIDE:
            raise ValueError(f"a patch is {SIDE}x{SIDE} pixels; the frame is {height}x{width}")
        self._frames.append(frame[: height // SIDE * SIDE, : width // SIDE * SIDE])

    def result(self) -> NDArray[np.floating]:
        """Features [patches, D], from the top left, row by row.

        Raises:
            ValueError: There was no frame.
        """
        import torch

        if not self._frames:
            raise ValueError("no frames to take features of")
        frames = self._frames + self._frames[-1:] * (FRAMES - len(self._frames))
        height, width = frames[0].shape[:2]
        found = []
        for top in range(0, height, SIDE):
            for left in range(0, width, SIDE):
                patch = np.stack([frame[top : top + SIDE, left : left + SIDE] for frame in frames])
                pixels = torch.from_numpy(patch).to(self._device).permute(3, 0, 1, 2)[None].float() / 255
                with torch.no_grad():
                    found.append(self._extract(pixels)[0].float().cpu().numpy())
        return np.stack(found)


def load_r3d_18(files: Sequence[Path], device: str) -> Callable[[], Watcher]:
    """torchvision's ResNet-18 of 3-D convolutions, trained on Kinetics-400: 512 features before its classes."""
    import torch
    from torchvision.models.video import r3d_18

    network = r3d_18(weights=None)
    network.load_state_dict(torch.load(files[0], map_location="cpu", weights_only=True))
    network.fc = torch.nn.Identity()
    network = network.eval().requires_grad_(False).to(device)
    mean, deviation = (torch.tensor(v, device=device)[:, None, None, None] for v in (KINETICS_MEAN, KINETICS_DEVIATION))
    return lambda: Patches(lambda pixels: network((pixels - mean) / deviation), device)


def load_i3d(files: Sequence[Path], device: str) -> Callable[[], Watcher]:
    """I3D as TorchScript, the file that most FVD code of PyTorch loads: its 400 values before the softmax."""
    import torch

    network = torch.jit.load(str(files[0]), map_location=device).eval()
    said = {"rescale": False, "resize": False, "return_features": True}
    return lambda: Patches(lambda pixels: network(pixels * 2 - 1, **said), device)


def hd_fvd(
    clips: Sequence[Features], prompts: Sequence[int], real: Sequence[Features], confidence: float, seed: int
) -> Figure:
    """The Fréchet distance of all patches' features, or whole clips', and what the number of clips does to it."""
    true = moments(np.concatenate(real))
    value = frechet_distance(moments(np.concatenate(clips)), true)
    found = spread(clips, prompts, true, confidence, seed)
    return Figure(value, value - found.below, value + found.above, _note(clips, real, found), found.resamples)


def _note(clips: Sequence[Features], real: Sequence[Features], found: Spread) -> str:
    whole = all(len(one) == 1 for group in (clips, real) for one in group)
    counted = ["clips" if whole else f"clips ({sum(map(len, group))} patches)" for group in (clips, real)]
    said = f"from {len(clips)} {counted[0]} against {len(real)} real {counted[1]}"
    features, samples = clips[0].shape[1], "clips" if whole else "patches"
    few = min(sum(map(len, clips)), sum(map(len, real))) <= features
    rank = f"; fewer {samples} than the network's {features} features, so it means little" if few else ""
    high = f"; too high by about {found.bias:.3g} for so few clips" if found.bias > 0 else ""
    return f"{said}{high}{rank}: compare arms of as many clips alone"


def _fvd(name: str, network: str, **own: Any) -> Distribution:
    return Distribution(
        name=name,
        label=f"HD-FVD ({network})",
        explanation=f"Fréchet distance between the {network} features of 224-pixel patches of all clips of the arm and "
        "of real clips (UltraGen). It rewards what the real clips hold, noise and compression among it. It is too "
        "high for few clips, the more so the more they scatter: a difference of two arms of as many clips holds what "
        "of that they do not share.",
        direction="lower",
        asked=True,
        settings=(SIDE, FRAMES),
        figure=hd_fvd,
        **own,
    )


DISTRIBUTIONS: tuple[Distribution, ...] = (
    _fvd(
        "hd_fvd_r3d_18",
        "r3d_18",
        weights=(Weight("r3d_18-b3b3357e.pth", "https://download.pytorch.org/models/r3d_18-b3b3357e.pth", "b3b3357e"),),
        load=load_r3d_18,
        teraflops=0.326 / 0.224**2 / FRAMES,
    ),
    _fvd(
        "hd_fvd_i3d",
        "I3D",
        weights=(I3D_FILE,),
        packages=(),
        load=load_i3d,
        teraflops=2 * 0.108 / 4 / 0.224**2 / FRAMES,  # 108 GMAC of 64 frames (Carreira and Zisserman, CVPR 2017)
    ),
)
