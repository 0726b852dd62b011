"""Self-attention of diffusers' Wan transformers by any entry of `KINDS`, GCLF (ViBe, arXiv 2603.23326) among them."""

from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from vibe_pipeline.diffusion.attention.geometry import BACKENDS, Windows, inward_window_mask, reorder_tokens
from vibe_pipeline.diffusion.attention.kinds import (
    KINDS,
    AttentionKind,
    AttentionPlan,
    AttentionSettings,
    FunctionPlan,
    Place,
    attention_words,
    kind_of,
    require_windowed,
    window_alone,
)
from vibe_pipeline.diffusion.attention.kinds.t3 import t3_attention
from vibe_pipeline.diffusion.attention.scales import SCALES, cinescale_scale, freeswim_scale

if TYPE_CHECKING:
    from vibe_pipeline.diffusion.attention.backends import WindowPlan, gclf_attention, make_plan
    from vibe_pipeline.diffusion.attention.flex import build_block_mask, computed_share, window_blocks
    from vibe_pipeline.diffusion.attention.install import GclfSettings, install_gclf, remove_gclf
    from vibe_pipeline.diffusion.attention.installation import GclfInstallation
    from vibe_pipeline.diffusion.attention.processor import GclfAttnProcessor
    from vibe_pipeline.diffusion.attention.rotary import Rotary

__all__ = [
    "BACKENDS",
    "KINDS",
    "SCALES",
    "AttentionKind",
    "AttentionPlan",
    "AttentionSettings",
    "FunctionPlan",
    "GclfAttnProcessor",
    "GclfInstallation",
    "GclfSettings",
    "Place",
    "Rotary",
    "WindowPlan",
    "Windows",
    "attention_words",
    "build_block_mask",
    "cinescale_scale",
    "computed_share",
    "freeswim_scale",
    "gclf_attention",
    "install_gclf",
    "inward_window_mask",
    "kind_of",
    "make_plan",
    "remove_gclf",
    "reorder_tokens",
    "require_windowed",
    "t3_attention",
    "window_alone",
    "window_blocks",
]
_HOMES = MappingProxyType(
    dict.fromkeys(("WindowPlan", "gclf_attention", "make_plan"), "backends")
    | dict.fromkeys(("build_block_mask", "computed_share", "window_blocks"), "flex")
    | dict.fromkeys(("GclfSettings", "install_gclf", "remove_gclf"), "install")
    | {"GclfInstallation": "installation"}
    | {"GclfAttnProcessor": "processor", "Rotary": "rotary"}
)


def __getattr__(name: str) -> Any:
    """What needs torch or diffusers is imported at its first use: a plan asks for the kinds and the geometry alone."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
