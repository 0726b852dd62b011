"""HD-LPIPS: how different a frame looks once it is shrunk by 8, 16 and 32 and enlarged again.

LPIPS (Zhang et al., CVPR 2018), version 0.1 with AlexNet, on torchvision's AlexNet and the published linear heads. The
package lpips is from 2021 and fetches AlexNet by itself, as pyiqa's copy does whatever it is told. Thirty lines, so it
is written here, on named files.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vibe_pipeline.evaluation.metrics.networks import FRAMES, Frame, FrameMean, FrameNetwork, Watcher
from vibe_pipeline.evaluation.metrics.remainder import FACTORS, enlarged_strips, shrunk
from vibe_pipeline.vbench.weight_files import Weight

if TYPE_CHECKING:
    import torch

TAPS = (1, 4, 7, 9, 11)
"""The rectifiers among AlexNet's features whose outputs are compared."""
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""ImageNet's normalisation, for pictures in [-1, 1]."""
_EPSILON = 1e-10
ALEXNET = Weight("alexnet-owt-7be5be79.pth", "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth", "7be5be79")
HEADS = Weight(
    "lpips_v0.1_alex.pth",
    "https://github.com/richzhang/PerceptualSimilarity/raw/master/lpips/weights/v0.1/alex.pth",
    "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",  # as in the package lpips 0.1.4
)

Features = list["torch.Tensor"]
LEAST_SIDE = 64  # pixels: below 63 AlexNet's last layers have nothing left


class Lpips:
    """The distance, from the files of AlexNet and of the heads."""

    def __init__(self, alexnet: Path, heads: Path, device: str):
        import torch
        from torchvision.models import alexnet as build

        network = build(weights=None)
        network.load_state_dict(torch.load(alexnet, map_location="cpu", weights_only=True))
        self._layers = network.features.eval().requires_grad_(False).to(device)
        state = torch.load(heads, map_location="cpu", weights_only=True)
        self._heads = [state[f"lin{i}.model.1.weight"].float().to(device) for i in range(len(TAPS))]
        self._shift, self._scale = (torch.tensor(v, device=device)[None, :, None, None] for v in (SHIFT, SCALE))
        self.device = device

    def features(self, picture: "torch.Tensor") -> Features:
        """Of pictures [N, 3, H, W] in [-1, 1], each of length 1 over its channels."""
        import torch

        values, found = (picture.to(self.device) - self._shift) / self._scale, []
        for index, layer in enumerate(self._layers[: TAPS[-1] + 1]):
            values = layer(values)
            if index in TAPS:
                length = torch.sqrt(torch.sum(values**2, dim=1, keepdim=True))
                found.append(values / (length + _EPSILON))
        return found

    def distance(self, one: Features, other: Features) -> float:
        """Sum over layers of the weighted squared difference, mean over places."""
        import torch

        parts = zip(one, other, self._heads, strict=True)
        return float(sum(torch.conv2d((a - b) ** 2, head).mean() for a, b, head in parts))


def hd_lpips(frame: Frame, lpips: Lpips) -> float:
    """Sum over the factors of the distance of a frame [H, W, 3] to itself shrunk and enlarged.

    Raises:
        ValueError: The frame is too small for the network.
    """
    height, width = frame.shape[:2]
    if min(height, width) < LEAST_SIDE:
        raise ValueError(f"LPIPS needs frames of {LEAST_SIDE}x{LEAST_SIDE} pixels at least; these are {height}x{width}")
    own, total = lpips.features(_signed(frame)), 0.0
    for factor in FACTORS:
        enlarged = np.concatenate([rows for _, rows in enlarged_strips(shrunk(frame, factor), height, width)])
        total += lpips.distance(own, lpips.features(_signed(enlarged)))
    return total


def _signed(picture: np.ndarray) -> "torch.Tensor":
    """0 to 255 [H, W, 3] -> -1 to 1 [1, 3, H, W]."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].float() / 127.5 - 1


def load_hd_lpips(files: Sequence[Path], device: str) -> Callable[[], Watcher]:
    """HD-LPIPS of frames."""
    alexnet, heads = files
    lpips = Lpips(alexnet, heads, device)
    return lambda: FrameMean(lambda frame: hd_lpips(frame, lpips))


HD_LPIPS = FrameNetwork(
    name="hd_lpips",
    label="HD-LPIPS",
    explanation="HD-MSE with a perceptual distance (LPIPS, AlexNet) in place of squares, of 16 evenly spaced frames: "
    "how different a frame looks once shrunk and enlarged (UltraGen). It rewards noise as it does detail.",
    direction="higher",
    asked=True,
    weights=(ALEXNET, HEADS),
    load=load_hd_lpips,
    settings=(FRAMES, FACTORS),
    teraflops=4 * 0.0287,
)
