"""An attention kind inside any diffusers Wan transformer: one call to install it, one to remove it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from vibe_pipeline.diffusion.attention.geometry import HalfWindow, NativeGrid, Order
from vibe_pipeline.diffusion.attention.installation import GclfInstallation
from vibe_pipeline.diffusion.attention.kinds import AttentionKind, AttentionSettings, kind_of, require_windowed
from vibe_pipeline.diffusion.attention.processor import GclfAttnProcessor
from vibe_pipeline.diffusion.attention.scales import Scale, scale_of
from vibe_pipeline.diffusion.attention.steps import Steps
from vibe_pipeline.diffusion.rope import RopeKind


@dataclass(frozen=True)
class GclfSettings:
    """Self-attention of the transformer, where no row of parameters says it.

    Attributes:
        kind: A name in `kinds.KINDS`.
        half_window: (d_h, d_w) in tokens; None: half the native token grid.
        pool: tile side in tokens, for gclf.
        scale: of the scores; None: 1 / sqrt(head dim); or a name in `scales.SCALES`.
    """

    kind: str = "gclf"
    half_window: HalfWindow | None = None
    pool: int = 2
    scale: Scale = None


def install_gclf(
    transformer: nn.Module,
    settings: AttentionSettings,
    native_grid: NativeGrid | None = None,
    backend: str = "auto",
    order: Order | None = None,
    rope: RopeKind | None = None,
    always: bool = False,
) -> GclfInstallation | None:
    """Give every self-attention of a Wan transformer the attention of a row: any entry of `KINDS`, such as GCLF.

    Replaces an earlier installation. LoRA, gradient checkpointing and torch.compile may come before or after,
    but for a LoRA on patch_embedding, condition_embedder or proj_out, which must come before.

    Args:
        transformer: a diffusers WanTransformer3DModel.
        settings: kind, scale and the kind's own fields; `AttentionParams` or `GclfSettings`.
        native_grid: (H, W) of the native token grid; needed where half_window is None or the scale is FreeSwim's.
        backend: one of the kind's `backends`; "auto" leaves it the choice, by device and size.
        order: token order inside the transformer; None: (h, w, t) for flex, (t, h, w) otherwise.
        rope: the row's rotary positions; only of a relative kind attention has to know.
        always: Install plain full attention too, as packed images need it.

    Returns:
        The installation, or None for plain full attention, which needs none.

    Raises:
        ValueError: for unknown kinds, backends or orders, windows that are not positive, a missing native_grid.
    """
    kind = kind_of(settings)
    kind.check(native_grid)
    kind.require_layers(len(transformer.blocks))
    _check_words(kind, backend, order)
    scale_of(settings.scale, (1, 1, 1), native_grid, transformer.config.attention_head_dim)
    remove_gclf(transformer)
    relative: Any = rope if rope is not None and rope.relative else None
    if relative is not None:
        require_windowed(kind)
        relative.reaches(native_grid)
    if kind.stock and settings.scale is None and relative is None and not always:
        return None
    installation = GclfInstallation(transformer, settings, native_grid, backend, relative)
    installation.attach(order)
    return installation


def _check_words(kind: AttentionKind, backend: str, order: Order | None) -> None:
    if backend not in kind.backends:
        raise ValueError(f"unknown attention backend {backend!r} for kind {kind.name!r}: use one of {kind.backends}")
    if order not in (None, "thw", "hwt"):
        raise ValueError(f"unknown token order {order!r}: use 'thw', 'hwt' or None")


def forget_attention(transformer: nn.Module) -> None:
    """Let attention keep nothing of the clip before: one begins, or has ended."""
    if (steps := _steps_on(transformer)) is not None:
        steps.forget()


@contextmanager
def guidance_pass(transformer: nn.Module, name: str) -> Iterator[None]:
    """Tell attention which of the guidance passes the forwards inside are of."""
    steps = _steps_on(transformer)
    if steps is None:
        yield
        return
    with steps.within(name):
        yield


def _steps_on(transformer: nn.Module) -> Steps | None:
    processor = transformer.blocks[0].attn1.processor
    return processor.installation.steps if isinstance(processor, GclfAttnProcessor) else None


def remove_gclf(transformer: nn.Module) -> bool:
    """Take it out again; the transformer computes exactly what it did before.

    Returns:
        Whether anything was installed.
    """
    processor = transformer.blocks[0].attn1.processor
    if not isinstance(processor, GclfAttnProcessor):
        return False
    processor.installation.detach()
    return True
