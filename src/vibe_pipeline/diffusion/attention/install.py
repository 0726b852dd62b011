"""GCLF attention inside any diffusers Wan transformer: one call to install it, one to remove it.

Attention processors are not told the (T, H, W) grid, and block-sparse kernels want the tokens in (h, w, t)
order. Both are settled by hooks on four small submodules, none of which is inside a checkpointed block:

    rope                sees the latent: sets the grid's plan; its tables come out in the plan's order
    patch_embedding     the one permutation before the first block (a view; the model copies anyway)
    condition_embedder  per-token timesteps (Wan2.2 TI2V) go in permuted
    proj_out            the one permutation after the last block, on the few output channels
"""

import weakref
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch import Tensor, nn

from vibe_pipeline.diffusion.attention.backends import AttentionPlan, Backend, choose_backend, make_plan
from vibe_pipeline.diffusion.attention.geometry import Grid, HalfWindow, Order, Windows, freeswim_scale, reorder_tokens
from vibe_pipeline.diffusion.lifetime import living

Kind = Literal["full", "window", "gclf"]
Scale = float | Literal["freeswim"] | None
HOOKED = ("patch_embedding", "condition_embedder", "proj_out")  # they see the tokens in the model's own order


class AttentionSettings(Protocol):
    """What `install_gclf` reads; `config.AttentionParams` fits, and so does `GclfSettings`."""

    @property
    def kind(self) -> Kind: ...
    @property
    def half_window(self) -> HalfWindow | None: ...
    @property
    def pool(self) -> int: ...
    @property
    def scale(self) -> Scale: ...


@dataclass(frozen=True)
class GclfSettings:
    """Self-attention of the transformer.

    Attributes:
        kind: full attention, the window alone, or window and pooled keys.
        half_window: (d_h, d_w) in tokens; None: half the native token grid.
        pool: tile side in tokens, for gclf.
        scale: of the scores; None: 1 / sqrt(head dim); "freeswim": see `freeswim_scale`.
    """

    kind: Kind = "gclf"
    half_window: HalfWindow | None = None
    pool: int = 2
    scale: Scale = None


class GclfAttnProcessor(WanAttnProcessor):
    """WanAttnProcessor for self-attention, with the plan of the installation it belongs to.

    diffusers' own choice of attention backend has no effect here; context parallelism is not supported.
    """

    def __init__(self, installation: "GclfInstallation") -> None:
        super().__init__()
        self.installation = installation

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Self-attention of hidden_states [B, L, C] in the plan's token order; returns [B, L, C]."""
        if encoder_hidden_states is not None or attention_mask is not None:
            raise ValueError("GCLF is self-attention: it takes neither encoder_hidden_states nor an attention_mask")
        q, k, v = (x.unflatten(2, (attn.heads, -1)) for x in _project(attn, hidden_states))
        if rotary_emb is not None:
            q, k = _rotate(q, *rotary_emb), _rotate(k, *rotary_emb)
        installed = self.installation
        out = installed.plan(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), installed.scale)
        out = out.transpose(1, 2).flatten(2, 3).type_as(q)
        return attn.to_out[1](attn.to_out[0](out))


def _project(attn: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys (both normalised) and values of x [B, L, C]: three of [B, L, heads D]."""
    if attn.fused_projections:
        q, k, v = attn.to_qkv(x).chunk(3, dim=-1)
    else:
        q, k, v = attn.to_q(x), attn.to_k(x), attn.to_v(x)
    return attn.norm_q(q), attn.norm_k(k), v


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Wan's RoPE on [B, L, heads, D]; tables [1, L, 1, D], each angle twice in a row."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[..., 0::2], sin[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2).type_as(x)


class GclfInstallation:
    """GCLF on one transformer: the plans by (grid, device), the hooks, and what was there before.

    Processors and hooks hold it, so it holds the transformer weakly: in a cycle a finished one would stay in memory.

    Attributes:
        settings: as given to `install_gclf`.
        scale: of the scores; None: 1 / sqrt(head dim).
        plan: that of the running forward. Gradient checkpointing reads it again in the backward pass, so finish
            one grid's backward before another grid's forward.
    """

    def __init__(
        self,
        transformer: nn.Module,
        settings: AttentionSettings,
        half_window: HalfWindow | None,
        scale: float | None,
        backend: Backend,
    ) -> None:
        self.settings = settings
        self.scale = scale
        self.plan: AttentionPlan | None = None
        self._half_window = half_window
        self._backend = backend
        self._order: Order | None = None
        self._plans: dict[tuple[Grid, torch.device], AttentionPlan] = {}
        self._transformer = weakref.ref(transformer)
        self._hooked = {n: weakref.ref(getattr(transformer, n)) for n in HOOKED}
        self._handles: list[Any] = []
        self._previous = [block.attn1.processor for block in transformer.blocks]

    def prepare(self, grid: Grid, device: torch.device | str) -> AttentionPlan:
        """Build, or find, the plan of a token grid (T, H, W); ahead of time it keeps the first step short.

        Raises:
            ValueError: if the grid does not divide by the pooling.
        """
        key = (tuple(grid), torch.device(device))
        if key not in self._plans:
            self._plans[key] = self._build(*key)
        return self._plans[key]

    @torch.compiler.disable
    def _build(self, grid: Grid, device: torch.device) -> AttentionPlan:
        full = self.settings.kind == "full"
        windows = Windows(
            grid,
            half_window=grid[1:] if full else self._oriented(grid),
            pool=self.settings.pool if self.settings.kind == "gclf" else 0,
        )
        backend = choose_backend(windows, self._backend, device)
        order = self._order or ("hwt" if backend == "flex" else "thw")
        order = "thw" if grid[0] == 1 else order  # the same order, by its cheaper name
        return make_plan(Windows(grid, windows.half_window, windows.pool, order), backend, device)

    def _oriented(self, grid: Grid) -> HalfWindow:
        """Half the native grid lies as the grid does: the native size of an upright image is the native size turned."""
        half = self._half_window
        turned = (grid[1] - grid[2]) * (half[0] - half[1]) < 0
        return half[::-1] if turned and self.settings.half_window is None else half

    def attach(self, order: Order | None) -> None:
        """Put the processors and hooks in place; `order` forces the token order (None: the backend's best)."""
        self._order, transformer = order, living(self._transformer)
        for block in transformer.blocks:
            block.attn1.set_processor(GclfAttnProcessor(self))
        self._handles = [
            transformer.rope.register_forward_pre_hook(self._begin),
            transformer.rope.register_forward_hook(self._reorder_rope),
            transformer.patch_embedding.register_forward_hook(self._reorder_patches),
            transformer.condition_embedder.register_forward_pre_hook(self._reorder_timesteps, with_kwargs=True),
            transformer.proj_out.register_forward_hook(self._restore_order),
        ]

    def detach(self) -> None:
        """Put everything back as it was."""
        for handle in self._handles:
            handle.remove()
        for block, processor in zip(living(self._transformer).blocks, self._previous, strict=True):
            block.attn1.set_processor(processor)

    @property
    def _reordered(self) -> bool:
        return self.plan.windows.order == "hwt"

    def _begin(self, rope: nn.Module, args: tuple[Tensor, ...]) -> None:
        latent = args[0]
        grid = tuple(n // p for n, p in zip(latent.shape[2:], rope.patch_size, strict=True))
        self.plan = self.prepare(grid, latent.device)
        if self._reordered:
            self._check_hooked()

    def _check_hooked(self) -> None:
        """A module that was wrapped since (by a LoRA on it, say) would mix two token orders without a word."""
        for name, module in self._hooked.items():
            if getattr(living(self._transformer), name) is not module():
                raise RuntimeError(f"{name} was replaced after install_gclf: remove_gclf, then install_gclf again")

    def _reorder_rope(self, rope: nn.Module, args: Any, tables: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if self._reordered:
            return tuple(reorder_tokens(x, self.plan.windows.grid, 1, "hwt") for x in tables)
        return None

    def _reorder_patches(self, module: nn.Module, args: Any, patches: Tensor) -> Tensor | None:
        return patches.permute(0, 1, 3, 4, 2) if self._reordered else None  # b c t h w -> b c h w t

    def _reorder_timesteps(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        length = kwargs.get("timestep_seq_len")
        if not self._reordered or length is None:
            return None
        steps = reorder_tokens(args[0].unflatten(0, (-1, length)), self.plan.windows.grid, 1, "hwt")
        return (steps.flatten(), *args[1:]), kwargs

    def _restore_order(self, module: nn.Module, args: Any, out: Tensor) -> Tensor | None:
        return reorder_tokens(out, self.plan.windows.grid, 1, "thw") if self._reordered else None


def _half_window(settings: AttentionSettings, native_grid: tuple[int, int] | None) -> HalfWindow | None:
    """(d_h, d_w) in tokens; None only where no window is wanted."""
    if settings.kind not in ("full", "window", "gclf"):
        raise ValueError(f"unknown attention kind {settings.kind!r}: use 'full', 'window' or 'gclf'")
    if settings.kind == "full":
        return None
    half = settings.half_window
    if half is None:
        if native_grid is None:
            raise ValueError("half_window is None, that is half the native grid: give native_grid (H, W) in tokens")
        if len(native_grid) != 2:
            raise ValueError(f"native_grid must be (H, W) in tokens, not {native_grid}")
        half = tuple(n // 2 for n in native_grid)
    pool = settings.pool if settings.kind == "gclf" else 0
    if settings.kind == "gclf" and pool < 1:
        raise ValueError(f"kind 'gclf' needs pooled keys, but pool is {pool}: use kind 'window' for none")
    # Any grid that divides by the pooling will do to have the values checked before the first forward.
    return Windows((1, max(pool, 1), max(pool, 1)), tuple(half), pool).half_window


def _scale(settings: AttentionSettings, native_grid: tuple[int, int] | None, head_dim: int) -> float | None:
    if settings.scale != "freeswim":
        return settings.scale
    if native_grid is None:
        raise ValueError("scale 'freeswim' follows from the native token grid: give native_grid (H, W) in tokens")
    return freeswim_scale(native_grid[0] * native_grid[1], head_dim)


def install_gclf(
    transformer: nn.Module,
    settings: AttentionSettings,
    native_grid: tuple[int, int] | None = None,
    backend: Backend = "auto",
    order: Order | None = None,
) -> GclfInstallation | None:
    """Give every self-attention of a Wan transformer windowed or GCLF attention (ViBe, arXiv 2603.23326).

    Replaces an earlier installation. LoRA, gradient checkpointing and torch.compile may come before or after,
    but for a LoRA on patch_embedding, condition_embedder or proj_out, which must come before.

    Args:
        transformer: a diffusers WanTransformer3DModel.
        settings: kind, half window, pooling, scale; `config.AttentionParams` or `GclfSettings`.
        native_grid: (H, W) of the native token grid; needed where settings.half_window is None or the scale
            is FreeSwim's.
        backend: "auto" (dense, gather or flex by device and size), or one of them.
        order: token order inside the transformer; None: (h, w, t) for flex, (t, h, w) otherwise.

    Returns:
        The installation, or None for plain full attention, which needs none.

    Raises:
        ValueError: for unknown kinds, backends or orders, windows that are not positive, a missing native_grid.
    """
    half_window = _half_window(settings, native_grid)
    choose_backend(Windows((1, 1, 1), (1, 1)), backend, "cpu")
    if order not in (None, "thw", "hwt"):
        raise ValueError(f"unknown token order {order!r}: use 'thw', 'hwt' or None")
    remove_gclf(transformer)
    if settings.kind == "full" and settings.scale is None:
        return None
    scale = _scale(settings, native_grid, transformer.config.attention_head_dim)
    installation = GclfInstallation(transformer, settings, half_window, scale, backend)
    installation.attach(order)
    return installation


def remove_gclf(transformer: nn.Module) -> bool:
    """Take GCLF out again; the transformer computes exactly what it did before.

    Returns:
        Whether anything was installed.
    """
    processor = transformer.blocks[0].attn1.processor
    if not isinstance(processor, GclfAttnProcessor):
        return False
    processor.installation.detach()
    return True
