"""A small pixel network that enlarges frames, trained on true pairs: how much of the detail follows from a frame.

The network is Real-ESRGAN's compact one, layer for layer and with its parameters' names, so that its weights load
wherever that network's do.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from vibe_pipeline.io.files import write_atomic
from vibe_pipeline.runtime.progress import Progress

Network = Callable[[Tensor], Tensor]


class CompactNetwork(nn.Module):
    """Convolutions at native size, a pixel shuffle at the end, added to the nearest-neighbour enlargement.

    Source: SRVGGNetCompact of Real-ESRGAN (Wang et al., ICCV workshops 2021), PReLU form.
    """

    def __init__(self, factor: int, features: int = 32, convolutions: int = 8) -> None:
        super().__init__()
        self.factor = factor
        layers: list[nn.Module] = [nn.Conv2d(3, features, 3, 1, 1), nn.PReLU(features)]
        for _ in range(convolutions):
            layers += [nn.Conv2d(features, features, 3, 1, 1), nn.PReLU(features)]
        self.body = nn.Sequential(*layers, nn.Conv2d(features, 3 * factor**2, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, h, w] in [0, 1] to [B, 3, factor h, factor w]; not clipped."""
        enlarged = F.interpolate(x, scale_factor=self.factor, mode="nearest")
        return F.pixel_shuffle(self.body(x), self.factor) + enlarged


@dataclass(frozen=True)
class PixelTraining:
    """How the pixel network is trained; `crop` is in native pixels."""

    steps: int = 8000
    batch: int = 8
    crop: int = 24
    rate: float = 2e-3
    warmup: int = 50
    seed: int = 0

    def rate_at(self, step: int) -> float:
        """Linear warm-up, constant, linear decay to zero over the second half."""
        return self.rate * min(1.0, (step + 1) / self.warmup, 2 * (1 - step / self.steps))


def train_pixel_network(
    native: NDArray[np.uint8], target: NDArray[np.uint8], training: PixelTraining
) -> CompactNetwork:
    """Train on pairs of frames, native [N, h, w, 3] and target [N, H, W, 3] in 8 bit, on one CPU core.

    Raises:
        ValueError: The target is not a whole multiple of the native size.
    """
    factor = target.shape[1] // native.shape[1]
    if target.shape[1:3] != (factor * native.shape[1], factor * native.shape[2]):
        raise ValueError(f"target {target.shape[1:3]} is not a whole multiple of native {native.shape[1:3]}")
    torch.manual_seed(training.seed)
    network = CompactNetwork(factor).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=training.rate, betas=(0.9, 0.98), weight_decay=0.0)
    batches = _batches(native, target, training)
    for step in Progress(range(training.steps), total=training.steps, desc="pixel network"):
        for group in optimizer.param_groups:
            group["lr"] = training.rate_at(step)
        x, y = next(batches)
        with torch.autocast("cpu", torch.bfloat16):
            enlarged = network(x)
        margin = 2 * factor  # what lies there depends on what the crop has cut off
        error = (enlarged.float() - y)[..., margin:-margin, margin:-margin]
        loss = error.abs().mean() + 20 * error.square().mean()
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"loss is {loss.item()} at step {step}")
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    return network.eval()


def _batches(
    native: NDArray[np.uint8], target: NDArray[np.uint8], training: PixelTraining
) -> Iterator[tuple[Tensor, Tensor]]:
    """Crops turned, mirrored and with their colours exchanged at random: the detail is the same in all."""
    rng = np.random.default_rng(training.seed)
    factor, crop = target.shape[1] // native.shape[1], training.crop
    small, large = (torch.from_numpy(a).permute(0, 3, 1, 2) for a in (native, target))
    while True:
        pairs = []
        for index in rng.integers(0, len(small), training.batch):
            y, x = (int(rng.integers(0, n - crop + 1)) for n in small.shape[-2:])
            pair = [
                frames[index, :, scale * y : scale * (y + crop), scale * x : scale * (x + crop)]
                for frames, scale in ((small, 1), (large, factor))
            ]
            turns, mirrored, colours = int(rng.integers(4)), rng.random() < 0.5, torch.from_numpy(rng.permutation(3))
            pair = [p.rot90(turns, (-2, -1))[colours] for p in pair]
            pairs.append([p.flip(-1) for p in pair] if mirrored else pair)
        x, y = (torch.stack(side).float() / 255 for side in zip(*pairs, strict=True))
        yield x.contiguous(memory_format=torch.channels_last), y


def save_network(network: CompactNetwork, path: Path) -> None:
    """Write its weights as safetensors, 32 bit, under Real-ESRGAN's names: spandrel knows the network by them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    write_atomic(path, partial(save_file, weights))


@torch.inference_mode()
def enlarge(network: Network, frames: NDArray[np.float32], batch: int = 16) -> NDArray[np.float32]:
    """Frames [N, h, w, 3] in [0, 1] through a network from [B, 3, h, w] to [B, 3, H, W], clipped, [N, H, W, 3]."""
    x = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
    done = [network(part.contiguous(memory_format=torch.channels_last)) for part in x.split(batch)]
    return torch.cat(done).permute(0, 2, 3, 1).clamp(0, 1).numpy()
