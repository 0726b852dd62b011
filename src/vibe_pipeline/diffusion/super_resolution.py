"""Single-image super-resolution: a network that spandrel loads, over a whole frame or over feathered tiles.

Real-ESRGAN's own script (xinntao/Real-ESRGAN, realesrgan/utils.py) cuts tiles with 10 pixels around them and pastes
them side by side: its network sees hundreds of pixels, so that seams show. Here neighbouring tiles share `overlap`
pixels, of which the outer quarters are dropped and the rest is blended.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from spandrel import ImageModelDescriptor, ModelLoader, ModelTiling, UnsupportedModelError, canonicalize_state_dict
from torch import Tensor

from vibe_pipeline.diffusion.rrdb import RrdbShape
from vibe_pipeline.diffusion.tensors import read_state
from vibe_pipeline.diffusion.tiles import tile_starts
from vibe_pipeline.io.errors import one_line

SINGLE = ("SR", "Restoration")


def load_network(path: Path) -> ImageModelDescriptor:
    """The network of a file of weights, 32 bit, on the CPU; its architecture is found by its keys.

    Pickles are read as tensors alone (`weights_only`): nothing in them can run.

    Raises:
        ValueError: Not a file of weights, not a network that spandrel knows, or not one that makes one RGB image of
            another; names the file.
    """
    state = read_state(path)
    try:
        network = ModelLoader().load_from_state_dict(canonicalize_state_dict(state))
    except UnsupportedModelError as error:
        raise ValueError(
            f"{path} holds no network that spandrel knows: its keys begin {one_line(sorted(map(str, state))[:3])}"
        ) from error
    except (RuntimeError, KeyError, ValueError, TypeError, AssertionError, IndexError) as error:  # keys lack, or shapes
        raise ValueError(f"{path} cannot be loaded as a network: {one_line(error, 200)}; fetch it again") from error
    _require_images(network, path)
    if broken := [k for k, v in network.model.state_dict().items() if v.is_floating_point() and not v.isfinite().all()]:
        raise ValueError(f"{path}: {len(broken)} of its tensors hold NaN or infinity, the first {broken[0]}")
    network.model.requires_grad_(False)
    return network.eval()


def _require_images(network: Any, path: Path) -> None:
    """Only networks from one RGB image to another of any size."""
    what = f"{path} holds {network.architecture.name}"
    if not isinstance(network, ImageModelDescriptor) or network.purpose not in SINGLE:
        raise ValueError(f"{what}, a network for {network.purpose}, not for super-resolution of whole pictures")
    if (network.input_channels, network.output_channels) != (3, 3):
        raise ValueError(f"{what} of {network.input_channels} channels to {network.output_channels}, not RGB to RGB")


def require_usable(network: ImageModelDescriptor, path: Path, dtype: torch.dtype, tile: int | None) -> None:
    """Refuse a number format or tiles that a network cannot take.

    Raises:
        ValueError: Names the file and what to set.
    """
    known = {torch.float16: network.supports_half, torch.bfloat16: network.supports_bfloat16}
    if not known.get(dtype, True):
        name = str(dtype).removeprefix("torch.")
        raise ValueError(f"{path}: {network.architecture.name} does not run in {name}: set sr.dtype to float32")
    if tile is not None and network.tiling is ModelTiling.INTERNAL:
        raise ValueError(f"{path}: {network.architecture.name} needs the whole picture: leave out sr.tile")


def shape_of(network: ImageModelDescriptor) -> RrdbShape | None:
    """The sizes of an RRDBNet; None of another network."""
    sizes = getattr(network.model, "hyperparameters", {})
    if network.architecture.id != "ESRGAN" or sizes.get("plus"):
        return None
    return RrdbShape(sizes["num_filters"], sizes["num_blocks"], sizes["scale"], sizes["shuffle_factor"] or 1)


Network = Callable[[Tensor], Tensor]
"""From [1, 3, H, W] in [0, 1] to [1, 3, scale H, scale W]."""


@torch.inference_mode()
def upscale(network: Network, scale: int, frame: Tensor, tile: int | None = None, overlap: int = 32) -> Tensor:
    """A picture through a network, whole or in tiles.

    Args:
        network: Enlarges by `scale`; a descriptor of spandrel is one.
        scale: A whole factor.
        frame: [1, 3, H, W] in [0, 1].
        tile: Side of a tile in pixels of the frame; None: the whole frame.
        overlap: Pixels of the frame that neighbouring tiles share at least: a quarter at each side is dropped, where
            the edge of a tile was padded, and the middle half is blended linearly.

    Returns:
        [1, 3, scale H, scale W], of the frame's type where it is whole, 32 bit where it was put together.
    """
    height, width = frame.shape[-2:]
    rows, columns = tile_starts(height, tile, overlap), tile_starts(width, tile, overlap)
    if len(rows) == len(columns) == 1:
        return network(frame)
    total = frame.new_zeros(1, 3, scale * height, scale * width, dtype=torch.float32)
    weight = torch.zeros_like(total[:, :1])
    for i, top in enumerate(rows):
        for j, left in enumerate(columns):
            piece = frame[..., top : top + (tile or height), left : left + (tile or width)]
            down = _feather(rows, i, piece.shape[-2], scale, overlap).to(total.device)
            across = _feather(columns, j, piece.shape[-1], scale, overlap).to(total.device)
            share = down[:, None] * across
            place = (..., slice(scale * top, scale * top + len(down)), slice(scale * left, scale * left + len(across)))
            total[place] += network(piece).float() * share
            weight[place] += share
    return total.div_(weight)


def _feather(starts: list[int], index: int, length: int, scale: int, overlap: int) -> Tensor:
    """Weights along a tile's axis: 1 inside and at the picture's own edges, down to 0 towards neighbours."""
    margin, ramp = scale * overlap // 4, scale * (overlap - 2 * (overlap // 4))
    edge = ((torch.arange(scale * length) - margin + 0.5) / ramp).clamp(0, 1)
    weights = torch.ones(scale * length)
    if index > 0:
        weights = weights * edge
    if index < len(starts) - 1:
        weights = weights * edge.flip(0)
    return weights
