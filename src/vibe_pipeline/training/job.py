"""What one adapter's training needs, and the batch of one step."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from vibe_pipeline.diffusion.flow import draw_sigma
from vibe_pipeline.diffusion.objectives import Predict
from vibe_pipeline.experiment.training import TrainParams
from vibe_pipeline.images.cache import LatentCache
from vibe_pipeline.training.distributed import Group

Loss = Callable[[Predict, dict[str, Tensor], Tensor, Tensor, Tensor], dict[str, Tensor]]
"""(predict, batch of cached parts, noise, sigma, weight) to named losses, `loss` among them; means over the batch."""
OnLog = Callable[[list[dict[str, float]]], None]
OnValidate = Callable[[WanTransformer3DModel, int], None]
"""(transformer in evaluation mode, steps done); must leave the transformer as it found it."""


def no_log(records: list[dict[str, float]]) -> None:
    """Nobody listens."""


@dataclass(frozen=True)
class Job:
    """What to train, where.

    Attributes:
        name: Of the adapter, which is on the transformer already.
        part: The cached latents to train on, `low` or `high`.
        on_log: Gets new log lines; of process 0 only.
        held_out: Images for the loss every `validate_every` steps.
        on_validate: Called on process 0 at the same steps, with the averaged adapter where there is one.
        group: The processes that train together.
        extra_parts: Cached latents that the loss needs beside `part`.
    """

    name: str
    transformer: WanTransformer3DModel
    cache: LatentCache
    part: str
    loss: Loss
    params: TrainParams
    expand_timesteps: bool
    device: torch.device
    dtype: torch.dtype
    folder: Path
    on_log: OnLog = no_log
    held_out: LatentCache | None = None
    on_validate: OnValidate | None = None
    group: Group = field(default_factory=Group)
    extra_parts: tuple[str, ...] = ()

    @property
    def chunk(self) -> int:
        """Images per forward of one process."""
        return self.params.micro_batch or -(-self.params.batch_size // self.group.size)


@dataclass(frozen=True)
class Batch:
    """This process's share of one step, on the CPU.

    Attributes:
        indices: Of the images of the whole batch, over all processes.
        parts: Cached latents by name, and `text`.
        noise: Like the latents.
        sigma: One an image.
    """

    indices: list[int]
    parts: dict[str, Tensor]
    noise: Tensor
    sigma: Tensor


def draw_batch(job: Job, step: int, indices: list[int]) -> Batch:
    """Noise and sigma are drawn for the whole batch from (seed, step), then cut: shares do not change them."""
    params, generator = job.params, torch.Generator().manual_seed(job.params.seed * 1_000_003 + step)
    shape = job.cache.shape(job.part, indices[0])
    noise = torch.randn((len(indices), *shape), generator=generator)
    sigma = draw_sigma(
        kind=params.sigma_sampling,
        count=len(indices),
        shift=params.sigma_shift,
        generator=generator,
        mean=params.logit_mean,
        std=params.logit_std,
    )
    first, end = job.group.bounds(len(indices))
    parts = {name: job.cache.batch(name, indices[first:end]) for name in (job.part, *job.extra_parts, "text")}
    return Batch(indices, parts, noise[first:end], sigma[first:end])
