"""A step on packed images: how it is drawn, and its losses, which are those of the images one by one."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from vibe_pipeline.diffusion.flow import loss_weight
from vibe_pipeline.diffusion.objectives import Predict
from vibe_pipeline.diffusion.packing import Losses, packed_losses, packed_predictor
from vibe_pipeline.images.packing import describe_packing, packed_batches
from vibe_pipeline.training.distributed import Group
from vibe_pipeline.training.job import Batch, TrainingJob, read_parts

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PackedBatch:
    """This process's share of one step, on the CPU.

    Attributes:
        indices: Of the images of the whole step, over all processes.
        shapes: How many of these have latents of which shape.
        sequences: Those of this process; every image a batch of one.
    """

    indices: list[int]
    shapes: Counter[tuple[int, ...]]
    sequences: list[list[Batch]]

    @property
    def text_length(self) -> int:
        """Tokens of a caption."""
        return self.sequences[0][0].text_length


def packed_steps(job: TrainingJob, patch: tuple[int, ...], first: int, tell: bool) -> Iterator[list[list[int]]]:
    """The images of every step from `first` on, by sequence; `tell` logs how full they are.

    Raises:
        ValueError: An image alone is larger than the budget.
    """
    assert job.row.packing is not None
    tokens = {}
    for bucket, indices in job.images.buckets.items():
        *_, height, width = job.images.shape(job.loss.part, indices[0])
        tokens[bucket] = height // patch[1] * (width // patch[2])
    budget, seed = job.row.packing.tokens, job.row.seed
    if tell:
        log.info("%s: %s", job.name, describe_packing(cache=job.images, tokens=tokens, budget=budget, seed=seed))
    batches = packed_batches(cache=job.images, tokens=tokens, budget=budget, seed=seed, batch_size=job.row.batch_size)
    return islice(batches, first, None)


def draw_packed(job: TrainingJob, group: Group, step: int, sequences: list[list[int]]) -> PackedBatch:
    """All that is random is drawn for the whole step from (seed, step), image by image: shares do not change it."""
    generator = torch.Generator().manual_seed(job.row.seed * 1_000_003 + step)
    indices = [index for sequence in sequences for index in sequence]
    sigma = job.draw_levels(len(indices), generator)
    first, end = group.bounds(len(sequences))
    levels, shapes, own = iter(sigma.split(1)), Counter[tuple[int, ...]](), []
    for place, sequence in enumerate(sequences):
        images = []
        for index in sequence:
            shape = job.images.shape(job.loss.part, index)
            shapes[shape] += 1
            noise = torch.randn((1, *shape), generator=generator)
            drawn, level = job.loss.draws(1, generator, job.images.draws, shape), next(levels)
            if first <= place < end:
                parts = read_parts(job.images, job.loss, [index], drawn)
                parts["text"] = job.images.batch("text", [index])
                images.append(Batch([index], parts, noise, level))
        own.append(images)
    return PackedBatch(indices, shapes, own[first:end])


def sequence_losses(
    job: TrainingJob, transformer: WanTransformer3DModel, device: torch.device, images: list[Batch]
) -> tuple[Losses, int]:
    """The mean over a sequence's images of what each would lose alone, and how often the model was called."""
    text = torch.cat([image.parts["text"] for image in images])
    velocities, calls = packed_predictor(transformer, text, job.dtype), []

    def predict(latents: Sequence[Tensor], levels: Sequence[Tensor]) -> list[Tensor]:
        calls.append(1)
        return velocities(latents, levels)

    with torch.autocast(device.type, torch.bfloat16, enabled=job.row.autocast):
        losses = packed_losses([partial(_image_losses, job, device, image) for image in images], predict)
    return {name: torch.stack([one[name] for one in losses]).mean() for name in losses[0]}, len(calls)


def _image_losses(job: TrainingJob, device: torch.device, image: Batch, predict: Predict) -> Losses:
    row = job.row
    parts = {name: value.to(device) for name, value in image.parts.items() if name != "text"}
    noise, sigma = image.noise.to(device), image.sigma.to(device)
    weight = loss_weight(row.loss_weighting, sigma, row.sigma_shift, row.logit_mean, row.logit_std)
    return job.loss(predict, parts, noise, sigma, weight)
