"""What a single-image network on every frame of a native clip takes: an RRDBNet by formula, any other by counting.

The file need not be here if it is one of the list of peers: a plan comes before the download.
"""

import logging
from collections import Counter
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from vibe_pipeline.diffusion.module_flops import counted
from vibe_pipeline.diffusion.rrdb import RrdbShape
from vibe_pipeline.diffusion.tiles import tile_starts
from vibe_pipeline.experiment.model import ClipSize
from vibe_pipeline.experiment.super_resolution import SuperResolutionParams
from vibe_pipeline.generation.peer_weights import peer_of
from vibe_pipeline.io.errors import one_line
from vibe_pipeline.io.keys import file_sha256
from vibe_pipeline.planning.costs import Costs, convolutions
from vibe_pipeline.planning.counts import NUMBER_BYTES
from vibe_pipeline.planning.work import Work

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NetworkCost:
    """Work of one clip, and bytes on the device: weights, and a frame at work."""

    work: Work
    memory: float


def network_cost(costs: Costs, chosen: SuperResolutionParams) -> NetworkCost | None:
    """What a row's network takes; None where its file is neither here nor of the list, or cannot be counted."""
    known = peer_of(chosen.weights)
    if chosen.weights.is_file():
        identity: object = file_sha256(chosen.weights)
    elif known is not None and known.rrdb is not None:
        identity = vars(known.rrdb)
    else:
        return None
    model, dtype = costs.model, chosen.dtype or costs.model.dtype
    key = (
        "network",
        identity,
        chosen.tile,
        chosen.overlap,
        dtype,
        model.native.model_dump(),
        model.target.model_dump(),
    )
    found = costs.figures.once(key, lambda: _counted(chosen, known.rrdb if known else None, costs, dtype))
    if found is None:
        return None
    operations, parameters, activations = found
    teraflops = operations * model.native.frames / 1e12
    return NetworkCost(
        convolutions(costs, teraflops, dtype, "networks"), parameters * NUMBER_BYTES[dtype] + activations
    )


def tile_sizes(size: ClipSize, chosen: SuperResolutionParams) -> Counter[tuple[int, int]]:
    """(height, width) of every tile of a frame, and how often."""
    rows, columns = (
        [min(chosen.tile or length, length)] * len(tile_starts(length, chosen.tile, chosen.overlap))
        for length in (size.height, size.width)
    )
    return Counter(product(rows, columns))


def _counted(
    chosen: SuperResolutionParams, shape: RrdbShape | None, costs: Costs, dtype: str
) -> tuple[float, int, int] | None:
    """Operations of a frame, numbers of the network, bytes of a frame beside them; None: it cannot be counted."""
    import torch

    from vibe_pipeline.planning.memory import network_activations

    network, scale, shape = _network(chosen.weights, shape)
    native, target = costs.model.native, costs.model.target
    try:
        operations = sum(times * _flops(network, shape, *size) for size, times in tile_sizes(native, chosen).items())
        number = getattr(torch, dtype)
        bytes_ = network_activations(network, scale, native, target, chosen, number)
    except (RuntimeError, NotImplementedError, TypeError) as error:  # an architecture that looks at its pixels
        log.warning("%s cannot be counted without being run: %s", chosen.weights, one_line(error))
        return None
    return operations, sum(p.numel() for p in network.parameters()), bytes_


def _flops(network: "nn.Module", shape: RrdbShape | None, height: int, width: int) -> float:
    import torch

    if shape is not None:
        return shape.flops(height, width)
    return counted(network, torch.empty(1, 3, height, width, device="meta"))


def _network(path: Path, shape: RrdbShape | None) -> tuple["nn.Module", int, RrdbShape | None]:
    """A network without weights, by how much it enlarges, and its sizes if it is an RRDBNet."""
    import torch
    from spandrel.architectures.ESRGAN import ESRGAN

    from vibe_pipeline.diffusion.super_resolution import load_network, shape_of

    if path.is_file():
        found = load_network(path)
        return found.model.to("meta"), found.scale, shape_of(found)
    if shape is None:
        raise ValueError(f"{path} is not here")
    with torch.device("meta"):
        network = ESRGAN(
            in_nc=3 * shape.unshuffle**2,
            num_filters=shape.features,
            num_blocks=shape.blocks,
            scale=shape.scale,
            shuffle_factor=shape.unshuffle if shape.unshuffle > 1 else None,
        )
    return network.requires_grad_(False).eval(), shape.factor, shape
