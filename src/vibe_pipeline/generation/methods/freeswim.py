"""`freeswim`: the training-free baseline (arXiv 2511.14712); `diffusion.freeswim` holds the method itself."""

from dataclasses import replace
from typing import TYPE_CHECKING

from vibe_pipeline.diffusion.attention import kind_of
from vibe_pipeline.diffusion.rope import rope_of
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.attention import AttentionParams
from vibe_pipeline.generation.methods.base import Workload
from vibe_pipeline.generation.methods.forwards import passes
from vibe_pipeline.generation.methods.refine import Refine

if TYPE_CHECKING:
    from vibe_pipeline.generation.experts import Expert


class FreeSwim(Refine):
    """A second pass whose window path takes its cross-attention from a full path."""

    name = "freeswim"
    own_fields = (Refine.own_fields | {"refresh_every"}) - {"long", "region_adaptive"}

    def check(self, arm: ArmParams) -> None:
        """Its own path is window attention."""
        super().check(arm)
        if not kind_of(arm.attention).local:
            raise ValueError(f"freeswim is window attention beside full: attention.kind is {arm.attention.kind!r}")
        if arm.scheduler == "midpoint" and arm.refresh_every is not None:
            raise ValueError("scheduler midpoint evaluates between the steps that refresh_every counts: leave one out")
        if arm.step_cache is not None:
            raise ValueError("freeswim keeps cross-attention between steps itself: leave step_cache out")
        if rope_of(arm.rope).relative:
            raise ValueError("freeswim's two paths have the same positions: rope.kind is 'ar'; use another")

    def attach(self, expert: "Expert", arm: ArmParams, native_grid: tuple[int, int], offload: bool) -> None:
        """Both paths; what the full one keeps for later steps stays in main memory where models take turns."""
        import torch

        from vibe_pipeline.diffusion.freeswim import install_freeswim
        from vibe_pipeline.diffusion.rope import install_rope

        store = torch.device("cpu") if offload else None
        install_rope(expert.transformer, rope_of(arm.rope), native_grid)
        expert.swim = install_freeswim(expert.transformer, arm.attention, native_grid, store)

    def said(self, arm: ArmParams) -> dict[str, bool]:
        """The name."""
        return {"FreeSwim": True, **super().said(arm)}

    def workload(self, arm: ArmParams, steps: int, guided: int | None = None) -> Workload:
        """The full path beside: in every pass, or in the conditional one of each k-th step."""
        plain = super().workload(arm, steps, guided)
        full = passes(arm, steps, guided) if arm.refresh_every is None else -(-steps // arm.refresh_every)
        return replace(
            plain,
            forwards=(*plain.forwards, (AttentionParams(), full)),
            copies=2,
            keeps_cross_attention=arm.refresh_every is not None,
        )
