"""`refine`: enlarge the native clip, encode, noise to sigma_start, denoise with the arm's adapter (ViBe)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from vibe_pipeline.diffusion.bridge import SHIFT, bridge_levels
from vibe_pipeline.diffusion.flow import Levels
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.generation.clip_cache import Make
from vibe_pipeline.generation.methods.base import ArmJob, Workload
from vibe_pipeline.generation.methods.denoising import DenoisingMethod
from vibe_pipeline.generation.methods.sharpening import sharpen_words, sharpened


class Refine(DenoisingMethod):
    """The paper's second pass."""

    name = "refine"
    second_pass = True
    takes_clips = True
    own_fields = frozenset({"bridge", "detail_transfer", "enlarge", "long", "region_adaptive", "sharpen"})

    def check(self, arm: ArmParams) -> None:
        """The transfer needs the enlarged clip; a bridge says by itself where the pass starts."""
        super().check(arm)
        if arm.bridge is not None:
            for field in ("strength", "strength_mode"):
                if getattr(arm, field) != ArmParams.model_fields[field].default:
                    raise ValueError(f"bridge says where the pass starts, {field} too: leave {field} out")
        if arm.enlarge == "latent" and arm.detail_transfer is not None:
            raise ValueError("detail_transfer adds to the enlarged clip, and enlarge: latent makes none: choose one")

    def levels(self, arm: ArmParams, shift: float) -> Levels:
        """Those of a bridge are its own."""
        if arm.bridge is None:
            return super().levels(arm, shift)
        return bridge_levels(arm.steps, arm.bridge.sigma, arm.bridge.form, arm.flow_shift or SHIFT)

    def workload(self, arm: ArmParams, steps: int, guided: int | None = None) -> Workload:
        """A latent is enlarged after the small clip is encoded."""
        load = super().workload(arm, steps, guided)
        return replace(load, encodes=0, native_encodes=1) if arm.enlarge == "latent" else load

    def said(self, arm: ArmParams) -> dict[str, bool]:
        """What is enlarged, and whether the decoded clip is sharpened."""
        return {"latent enlarged": arm.enlarge == "latent", sharpen_words(arm): arm.sharpen is not None}

    @contextmanager
    def prepare(self, job: ArmJob) -> Iterator[Make]:
        """The arm's models, from the native clip."""
        with self.denoiser(job) as denoiser:
            yield lambda rows: sharpened(denoiser.refine(rows, job.size), job)
