"""`truth`: the miniature's true render through the VAE: what no second pass can exceed."""

from collections.abc import Iterator
from contextlib import contextmanager

from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.generation.clip_cache import Make
from vibe_pipeline.generation.methods.base import ArmJob, Method, Workload


class Truth(Method):
    """Only where the scene is known: the miniature's own prompts."""

    name = "truth"
    bound = "ceiling"

    def describe(self, arm: ArmParams) -> str:
        """The same for every row."""
        return "true render through the VAE: the ceiling"

    @contextmanager
    def prepare(self, job: ArmJob) -> Iterator[Make]:
        """The VAE alone."""
        import torch

        from vibe_pipeline.diffusion.lifetime import released
        from vibe_pipeline.diffusion.models import (
            decode_bytes,
            encode_video,
            find_model,
            load_vae,
            pick_device,
            settle_torch,
        )
        from vibe_pipeline.generation.true_renders import true_renders

        settle_torch(job.model.threads, job.model.deterministic)
        device, dtype = pick_device(job.model.device), getattr(torch, job.model.vae_dtype)
        with released(load_vae(find_model(job.model.path), device, job.model.tile, dtype)) as vae:
            yield lambda rows: torch.cat(
                [decode_bytes(vae, encode_video(vae, clip[None])) for clip in true_renders(rows, job.size)]
            )

    def workload(self, arm: ArmParams, steps: int, guided: int | None = None) -> Workload:
        """Once through the VAE."""
        return Workload(encodes=1, decodes=1)
