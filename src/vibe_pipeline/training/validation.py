"""The held-out loss: at fixed noise levels and fixed noise, so that it can be compared between steps and runs."""

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from vibe_pipeline.diffusion.compiling import eagerly
from vibe_pipeline.diffusion.models import velocity_predictor
from vibe_pipeline.training.distributed import Group
from vibe_pipeline.training.job import TrainingJob, read_parts

SIGMAS = (0.2, 0.4, 0.6, 0.8)
"""Noise levels, as shares of those that the training learns."""


@torch.no_grad()
def held_out_loss(job: TrainingJob, transformer: WanTransformer3DModel, group: Group) -> float:
    """The job's loss on its held-out images, unweighted, the mean over images and levels (`SIGMAS` of its range).

    Blocks run as they are, not compiled: a few images would have to wait for a graph a size. Chunks of a micro-batch
    are shared out among the processes, all of which must call this and get the same number. What is random is drawn for
    each bucket at once: chunks and processes do not change it.
    """
    images, size = job.held_out, job.chunk(group.size)
    assert images is not None  # or there is nothing to validate on
    total, chunk = torch.zeros((), dtype=torch.float64), 0
    with eagerly(transformer):
        for indices in images.buckets.values():
            shape = (len(indices), *images.shape(job.loss.part, indices[0]))
            generator = torch.Generator().manual_seed(0)
            noise = torch.randn(shape, generator=generator)
            drawn = job.loss.draws(len(indices), generator, images.draws, shape[1:])
            for start in range(0, len(indices), size):
                if chunk % group.size == group.rank:
                    rows = slice(start, start + size)
                    parts = read_parts(images, job.loss, indices[rows], {n: v[rows] for n, v in drawn.items()})
                    texts = images.batch("text", indices[rows])
                    total += _chunk_loss(job, transformer, texts, noise[rows].to(group.device), parts)
                chunk += 1
    total = total.to(group.device)
    group.sum_([total])
    return float(total) / len(images)


def _chunk_loss(
    job: TrainingJob,
    transformer: WanTransformer3DModel,
    texts: Tensor,
    noise: Tensor,
    parts: dict[str, Tensor],
) -> float:
    """The sum over the chunk's images of their mean loss over sigmas."""
    batch = {name: value.to(noise.device) for name, value in parts.items()}
    predict = velocity_predictor(transformer, texts, job.expand_timesteps, job.dtype)
    levels = [s * (job.below or 1.0) for s in SIGMAS]
    ones = torch.ones(len(noise), device=noise.device)
    values = [float(job.loss(predict, batch, noise, ones * s, ones)["loss"]) for s in levels]
    return len(noise) * sum(values) / len(values)
