"""`sr`: a single-image super-resolution network, Real-ESRGAN for example, on every frame of the native clip."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.super_resolution import SuperResolutionParams
from vibe_pipeline.generation.clip_cache import Make, Scale
from vibe_pipeline.generation.methods.base import ArmJob, Method, Workload
from vibe_pipeline.generation.peer_weights import how_to_get
from vibe_pipeline.io.named import require_file
from vibe_pipeline.io.video import read_frames

if TYPE_CHECKING:
    from spandrel import ImageModelDescriptor


class SuperResolution(Method):
    """Frames know nothing of each other; one is in memory at a time."""

    name = "sr"
    takes_clips = True
    own_fields = frozenset({"sr"})

    def check(self, arm: ArmParams) -> None:
        """A network is named."""
        network_of(arm)

    def describe(self, arm: ArmParams) -> str:
        """The file, and how frames are cut."""
        network = network_of(arm)
        pieces = f"tiles of {network.tile} sharing {network.overlap} pixels" if network.tile else "whole frames"
        return f"{network.weights.name} on every frame of the native clip · {pieces} · resized to the target"

    @contextmanager
    def prepare(self, job: ArmJob) -> Iterator[Make]:
        """The network alone."""
        import torch

        from vibe_pipeline.diffusion.lifetime import released
        from vibe_pipeline.diffusion.models import pick_device, settle_torch

        settle_torch(job.model.threads, job.model.deterministic)
        chosen = network_of(job.arm)
        network = usable_network(chosen, job.model.dtype, f"arms.{job.name}.sr.weights")
        network.to(pick_device(job.model.device), getattr(torch, chosen.dtype or job.model.dtype))
        with released(network.model):
            yield lambda rows: [enlarged(Path(row["native_path"]), network, chosen, job.size) for row in rows]

    def workload(self, arm: ArmParams, steps: int, guided: int | None = None) -> Workload:
        """The network on every frame."""
        return Workload(network=network_of(arm))


def network_of(arm: ArmParams) -> SuperResolutionParams:
    """The row's network.

    Raises:
        ValueError: It names none.
    """
    if arm.sr is None:
        raise ValueError("method sr needs `sr: {weights: FILE}`, a network such as RealESRGAN_x4plus.pth")
    return arm.sr


def usable_network(chosen: SuperResolutionParams, dtype: str, field: str) -> "ImageModelDescriptor":
    """The network of a file, judged: what it makes, its number format, its tiles.

    Args:
        chosen: The file, tiles and number format.
        dtype: The run's number format, where the row names none.
        field: The file's dotted name, for messages.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a network for this; one line that names field and file.
    """
    import torch

    from vibe_pipeline.diffusion.super_resolution import load_network, require_usable

    path = require_file(chosen.weights, field, how_to_get(chosen.weights))
    try:
        network = load_network(path)
        require_usable(network, path, getattr(torch, chosen.dtype or dtype), chosen.tile)
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from error
    return network


def enlarged(
    clip: Path, network: "ImageModelDescriptor", chosen: SuperResolutionParams, size: Scale
) -> Iterator[NDArray[np.float32]]:
    """The frames of a clip at the target size, [H, W, 3] in [0, 1], one at a time.

    What the network gives is resized in 32-bit floats, before anything is rounded to bytes: a network of a whole factor
    never meets 704x1280 to 2176x3840, which is 3.09 by 3.

    Args:
        clip: The native clip's file.
        network: On its device.
        chosen: Tiles and their overlap.
        size: Of the target.
    """
    import torch

    from vibe_pipeline.diffusion.super_resolution import upscale
    from vibe_pipeline.images.resize import shrink

    for frame in read_frames(clip):
        pixels = torch.from_numpy(frame.copy()).to(network.device).permute(2, 0, 1)[None].float().div_(255)
        large = upscale(network, network.scale, pixels.to(network.dtype), chosen.tile, chosen.overlap)
        exact = shrink(large.float()[:, :, None], size.height, size.width)
        yield exact[0, :, 0].permute(1, 2, 0).cpu().numpy()
