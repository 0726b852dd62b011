"""The held-out loss against its definition, however it is cut up."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vibe_pipeline.diffusion import lora
from vibe_pipeline.experiment.training import Stage1Params
from vibe_pipeline.images.cache import LatentCache
from vibe_pipeline.training.distributed import Group
from vibe_pipeline.training.job import TrainingJob
from vibe_pipeline.training.stages import STAGE1_LOSS
from vibe_pipeline.training.validation import SIGMAS, held_out_loss


@pytest.mark.parametrize("style", ["wan21", "wan22"])
def test_it_is_the_mean_over_images_and_sigmas_whatever_the_chunks(request, make_cache, style: str) -> None:
    """Five training images of one bucket and four of another stand in for the held-out ones."""
    tiny, per_token = request.getfixturevalue(style), style == "wan22"
    transformer = tiny.transformer()
    lora.add_adapter(transformer, "d1", 2, 2, ("to_q",), 0)
    cache, row = LatentCache(make_cache(16 if style == "wan21" else 48, count=11, buckets=2)), Stage1Params()
    job = TrainingJob(
        name="d1",
        key="k",
        folder=Path(),
        model=tiny.model(),
        expand_timesteps=per_token,
        row=row,
        images=cache,
        held_out=cache,
        loss=STAGE1_LOSS,
    )
    errors = []
    for indices in cache.buckets.values():
        x0, text = cache.batch("low", indices), cache.batch("text", indices)
        noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
        for sigma in SIGMAS:
            shape = (len(indices), 6) if per_token else (len(indices),)
            with torch.no_grad():
                velocity = transformer((1 - sigma) * x0 + sigma * noise, torch.full(shape, 1000 * sigma), text).sample
            errors += (velocity - (noise - x0)).square().mean(dim=(1, 2, 3, 4)).tolist()
    assert len(errors) == 9 * len(SIGMAS)
    for micro_batch in (1, 2, 9):
        chunked = replace(job, row=row.model_copy(update={"micro_batch": micro_batch}))
        assert held_out_loss(chunked, transformer, Group()) == pytest.approx(sum(errors) / len(errors), rel=1e-5)
