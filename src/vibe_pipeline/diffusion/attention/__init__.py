"""Global-Coarse-Local-Fine attention for diffusers' Wan transformers (ViBe, arXiv 2603.23326)."""

from typing import TYPE_CHECKING, Any

from vibe_pipeline.diffusion.attention.backends import BACKENDS, Plan, gclf_attention, make_plan
from vibe_pipeline.diffusion.attention.flex import build_block_mask, computed_share, window_blocks
from vibe_pipeline.diffusion.attention.geometry import Windows, freeswim_scale, inward_window_mask, reorder_tokens

if TYPE_CHECKING:
    from vibe_pipeline.diffusion.attention.install import (
        AttentionSettings,
        GclfAttnProcessor,
        GclfInstallation,
        GclfSettings,
        install_gclf,
        remove_gclf,
    )

__all__ = [
    "BACKENDS",
    "AttentionSettings",
    "GclfAttnProcessor",
    "GclfInstallation",
    "GclfSettings",
    "Plan",
    "Windows",
    "build_block_mask",
    "computed_share",
    "freeswim_scale",
    "gclf_attention",
    "install_gclf",
    "inward_window_mask",
    "make_plan",
    "remove_gclf",
    "reorder_tokens",
    "window_blocks",
]


def __getattr__(name: str) -> Any:
    """What `install` gives, at its first use: it subclasses diffusers, which the geometry and a plan do without."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vibe_pipeline.diffusion.attention import install

    return getattr(install, name)
