"""Global-Coarse-Local-Fine attention for diffusers' Wan transformers (ViBe, arXiv 2603.23326)."""

from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from vibe_pipeline.diffusion.attention.geometry import Windows, freeswim_scale, inward_window_mask, reorder_tokens

if TYPE_CHECKING:
    from vibe_pipeline.diffusion.attention.backends import BACKENDS, AttentionPlan, gclf_attention, make_plan
    from vibe_pipeline.diffusion.attention.flex import build_block_mask, computed_share, window_blocks
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
    "AttentionPlan",
    "AttentionSettings",
    "GclfAttnProcessor",
    "GclfInstallation",
    "GclfSettings",
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
_HOMES = MappingProxyType(
    dict.fromkeys(("BACKENDS", "AttentionPlan", "gclf_attention", "make_plan"), "backends")
    | dict.fromkeys(("build_block_mask", "computed_share", "window_blocks"), "flex")
)


def __getattr__(name: str) -> Any:
    """What needs torch or, in `install`, diffusers is imported at its first use: a plan asks for the geometry alone."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'install')}"), name)
