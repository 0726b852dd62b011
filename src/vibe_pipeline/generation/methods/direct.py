"""`direct`: text to video at the target size, from noise."""

from collections.abc import Iterator
from contextlib import contextmanager

from vibe_pipeline.generation.clip_cache import Make
from vibe_pipeline.generation.methods.base import ArmJob
from vibe_pipeline.generation.methods.denoising import DenoisingMethod


class Direct(DenoisingMethod):
    """The base where it was never trained."""

    name = "direct"
    own_fields = frozenset({"long", "region_adaptive"})

    @contextmanager
    def prepare(self, job: ArmJob) -> Iterator[Make]:
        """The arm's models, from noise."""
        with self.denoiser(job) as denoiser:
            yield lambda rows: denoiser.from_noise(rows, job.size)
