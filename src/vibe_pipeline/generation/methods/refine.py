"""`refine`: enlarge the native clip, encode, noise to sigma_start, denoise with the arm's adapter (ViBe)."""

from collections.abc import Iterator
from contextlib import contextmanager

from vibe_pipeline.generation.clip_cache import Make
from vibe_pipeline.generation.methods.base import ArmJob, DenoisingMethod


class Refine(DenoisingMethod):
    """The paper's second pass."""

    name = "refine"
    second_pass = True
    takes_clips = True
    own_fields = frozenset({"detail_transfer"})

    @contextmanager
    def prepare(self, job: ArmJob) -> Iterator[Make]:
        """The arm's models, from the native clip."""
        with self.denoiser(job) as denoiser:
            yield lambda rows: denoiser.refine(rows, job.size)
