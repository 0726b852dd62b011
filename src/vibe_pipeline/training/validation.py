"""The held-out loss: at fixed noise levels and fixed noise, so that it can be compared between steps and runs."""

import torch

from vibe_pipeline.diffusion.models import velocity_predictor
from vibe_pipeline.training.job import Job

SIGMAS = (0.2, 0.4, 0.6, 0.8)


@torch.no_grad()
def held_out_loss(job: Job, sigmas: tuple[float, ...] = SIGMAS) -> float:
    """The job's loss on its cache, unweighted, the mean over images and sigmas.

    Chunks of a micro-batch are shared out among the processes, all of which must call this and get the same number.
    Each bucket's noise is drawn at once: chunks and processes do not change it.
    """
    total, chunk = torch.zeros((), dtype=torch.float64), 0
    for indices in job.cache.buckets.values():
        shape = (len(indices), *job.cache.shape(job.part, indices[0]))
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        for start in range(0, len(indices), job.chunk):
            if chunk % job.group.size == job.group.rank:
                rows = slice(start, start + job.chunk)
                total += _chunk_loss(job, indices[rows], noise[rows], sigmas)
            chunk += 1
    total = total.to(job.device)
    job.group.sum_([total])
    return float(total) / len(job.cache)


def _chunk_loss(job: Job, indices: list[int], noise: torch.Tensor, sigmas: tuple[float, ...]) -> float:
    """The sum over the chunk's images of their mean loss over sigmas."""
    batch = {name: job.cache.batch(name, indices).to(job.device) for name in (job.part, *job.extra_parts)}
    predict = velocity_predictor(job.transformer, job.cache.batch("text", indices), job.expand_timesteps, job.dtype)
    noise, ones = noise.to(job.device), torch.ones(len(indices), device=job.device)
    values = [float(job.loss(predict, batch, noise, ones * s, ones)["loss"]) for s in sigmas]
    return len(indices) * sum(values) / len(values)
