"""One attention kind on one transformer: its plans by token grid, and the hooks that see the grid.

Attention processors are not told the (T, H, W) grid, and block-sparse kernels want the tokens in (h, w, t)
order. Both are settled by hooks on four small submodules, none of which is inside a checkpointed block:

    rope                sees the latent: sets the grid's plans; its tables come out in the plans' order
    patch_embedding     the one permutation before the first block (a view; the model copies anyway)
    condition_embedder  per-token timesteps (Wan2.2 TI2V) go in permuted
    proj_out            the one permutation after the last block, on the few output channels
"""

import weakref
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from vibe_pipeline.diffusion.attention.geometry import Grid, NativeGrid, Order, reorder_tokens
from vibe_pipeline.diffusion.attention.kinds import (
    AttentionKind,
    AttentionPlan,
    AttentionSettings,
    Place,
    kind_of,
    window_alone,
)
from vibe_pipeline.diffusion.attention.packed import pack_plans
from vibe_pipeline.diffusion.attention.processor import GclfAttnProcessor
from vibe_pipeline.diffusion.attention.relative import plan_relative
from vibe_pipeline.diffusion.attention.scales import scale_of
from vibe_pipeline.diffusion.attention.steps import Steps
from vibe_pipeline.diffusion.lifetime import living
from vibe_pipeline.diffusion.rope import Ar

HOOKED = ("patch_embedding", "condition_embedder", "proj_out")  # they see the tokens in the model's own order


class GclfInstallation:
    """An attention kind on one transformer: the plans by (grid, device), the hooks, and what was there before.

    Processors and hooks hold it, so it holds the transformer weakly: in a cycle a finished one would stay in memory.

    Attributes:
        kind: the entry of `KINDS`, with the settings as given to `install_gclf`.
        plans: of the running forward, one a block; blocks of one variant share theirs. Gradient checkpointing reads
            them again in the backward pass, so finish one grid's backward before another grid's forward.
        scale: of the running forward's scores; None: 1 / sqrt(head dim).
        rotates: plans get q and k before RoPE, and its tables.
        steps: which forward of a clip is running.
        attends: what attends in place of a plan, with it, the block's attention, q, k, v and scale; see
            `diffusion.regions`.
    """

    def __init__(
        self,
        transformer: nn.Module,
        settings: AttentionSettings,
        native: NativeGrid | None,
        backend: str,
        rope: Ar | None = None,
    ) -> None:
        self.kind, self._rope = kind_of(settings), rope
        self.rotates = self.kind.rotates or rope is not None
        self.plans: tuple[AttentionPlan, ...] = ()
        self.scale: float | None = None
        self.steps = Steps()
        self.attends: Callable[..., Tensor] | None = None
        self._said_scale, self._head_dim = settings.scale, transformer.config.attention_head_dim
        self._native, self._backend = native, backend
        self._order: Order | None = None
        self._layers = len(transformer.blocks)
        self._kinds: dict[str, AttentionKind] = {}
        self._plans: dict[tuple[AttentionKind, Grid, torch.device], tuple[AttentionPlan, ...]] = {}
        self._transformer = weakref.ref(transformer)
        self._hooked = {n: weakref.ref(getattr(transformer, n)) for n in HOOKED}
        self._handles: list[Any] = []
        self._previous = [block.attn1.processor for block in transformer.blocks]

    @property
    def plan(self) -> AttentionPlan | None:
        """That of the first block, in the running forward; its order is every block's."""
        return self.plans[0] if self.plans else None

    def narrow(self, guidance: str) -> None:
        """Let the forwards of one guidance pass (see `guidance_pass`) see the window alone, at the same scale.

        Raises:
            ValueError: The kind is made of more than windows, or is the window already.
        """
        window = window_alone(self.kind)
        window.check(self._native)
        self._kinds[guidance] = window

    def prepare(self, grid: Grid, device: torch.device | str) -> tuple[AttentionPlan, ...]:
        """Build, or find, the blocks' plans for a token grid (T, H, W); ahead of time it keeps the first step short.

        They are those of the guidance pass that is running.

        Raises:
            ValueError: if the grid does not fit the kind.
        """
        time, height, width = grid
        kind = self._kinds.get(self.steps.guidance, self.kind)
        key = (kind, (time, height, width), torch.device(device))
        if key not in self._plans:
            self._plans[key] = self._build(*key)
        return self._plans[key]

    def pack(self, grids: Sequence[Grid], device: torch.device) -> None:
        """Let the next forward's tokens be those of several stills in one row, each attending to itself alone.

        Raises:
            ValueError: if a grid does not fit the kind.
        """
        self.plans = pack_plans([self.prepare(grid, device) for grid in grids], [self.scale_at(g) for g in grids])
        self.scale = None  # each image has its own

    def scale_at(self, grid: Grid) -> float | None:
        """Scale of the scores on a token grid; None: 1 / sqrt(head dim)."""
        return scale_of(self._said_scale, grid, self._native, self._head_dim)

    def keys(self, grid: Grid, layer: int) -> float:
        """Keys that a query of a block is compared with, on the average; nothing is built."""
        time, height, width = grid
        return self.kind.keys((time, height, width), self._native, layer)

    @torch.compiler.disable
    def _build(self, kind: AttentionKind, grid: Grid, device: torch.device) -> tuple[AttentionPlan, ...]:
        place = Place(grid, self._native, device, self._backend, self._order, steps=self.steps)
        variants: dict[Hashable, AttentionPlan] = {}
        plans: list[AttentionPlan] = []
        for layer in range(self._layers):
            variant = kind.variant(layer)
            if variant not in variants:
                variants[variant] = self._plan_of(kind, replace(place, layer=layer))
                # The first layer's own choice holds for all: they have the same tokens.
                place = replace(place, order=variants[variant].order)
            plans.append(variants[variant])
        if len({plan.order for plan in plans}) > 1:
            raise ValueError(f"attention kind {kind.name!r} gives its layers tokens in different orders")
        return tuple(plans)

    def _plan_of(self, kind: AttentionKind, place: Place) -> AttentionPlan:
        if self._rope is None:
            return kind.plan(place)
        windows = replace(kind.windows(place.grid, place.native, place.layer), order=place.order or "thw")
        plan: Any = plan_relative(windows, self._rope, place.native, place.device)  # its call takes `rotary` too
        return plan

    def attach(self, order: Order | None) -> None:
        """Put the processors and hooks in place; `order` forces the token order (None: the kind's best)."""
        self._order, transformer = order, living(self._transformer)
        shared: dict[Hashable, GclfAttnProcessor] = {}
        for layer, block in enumerate(transformer.blocks):
            block.attn1.set_processor(shared.setdefault(self.kind.variant(layer), GclfAttnProcessor(self, layer)))
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
        return self.plans[0].order == "hwt"

    def _begin(self, rope: nn.Module, args: tuple[Tensor, ...]) -> None:
        latent = args[0]
        grid = tuple(n // p for n, p in zip(latent.shape[2:], rope.patch_size, strict=True))
        self.steps.tick()
        self.plans, self.scale = self.prepare(grid, latent.device), self.scale_at(grid)
        if self._reordered:
            self._check_hooked()

    def _check_hooked(self) -> None:
        """A module that was wrapped since (by a LoRA on it, say) would mix two token orders without a word."""
        for name, module in self._hooked.items():
            if getattr(living(self._transformer), name) is not module():
                raise RuntimeError(f"{name} was replaced after install_gclf: remove_gclf, then install_gclf again")

    def _reorder_rope(self, rope: nn.Module, args: Any, tables: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if self._reordered:
            return tuple(reorder_tokens(x, self.plans[0].grid, 1, "hwt") for x in tables)
        return None

    def _reorder_patches(self, module: nn.Module, args: Any, patches: Tensor) -> Tensor | None:
        return patches.permute(0, 1, 3, 4, 2) if self._reordered else None  # b c t h w -> b c h w t

    def _reorder_timesteps(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        length = kwargs.get("timestep_seq_len")
        if not self._reordered or length is None:
            return None
        steps = reorder_tokens(args[0].unflatten(0, (-1, length)), self.plans[0].grid, 1, "hwt")
        return (steps.flatten(), *args[1:]), kwargs

    def _restore_order(self, module: nn.Module, args: Any, out: Tensor) -> Tensor | None:
        return reorder_tokens(out, self.plans[0].grid, 1, "thw") if self._reordered else None
