"""Region-adaptive sampling (RAS, arXiv 2502.10389): some steps run the active tokens alone through the transformer.

After a step each token has the score std(v) exp(-starvation x times left out): the standard deviation over channels of
the guided velocity, averaged over the token's patch. In the next step the lowest are active (or, with `active: high`,
the highest, by the inverse factor). The others keep the velocity that they had, and take part as keys and values of
their last forward. Steps at the start, and one in `every` afterwards, run all tokens.

Source: microsoft/RAS (MIT). There the score grows with the times left out while the highest are left out, so that
what is left out stays so until a full step; here it comes back, as the paper says.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # the schedule is the plan's too, which has no torch
    from torch import Tensor, nn

    from vibe_pipeline.diffusion.attention import GclfInstallation, WindowPlan
    from vibe_pipeline.diffusion.attention.geometry import NativeGrid
    from vibe_pipeline.diffusion.attention.kinds import AttentionSettings
    from vibe_pipeline.diffusion.attention.some import Some
    from vibe_pipeline.diffusion.objectives import Predict


@dataclass(frozen=True)
class RegionSchedule:
    """Which steps run some tokens alone, how many, and which; the fields are those of `region_adaptive` in a row."""

    share: float
    start: int
    every: int
    starvation: float
    active: Literal["low", "high"]

    def partial(self, step: int) -> bool:
        """Whether a step, counted from 0, runs the active tokens alone: not at the start, nor one in `every`."""
        return self.share < 1 and step >= self.start and (step - self.start + 1) % self.every != 0

    def partial_forwards(self, asked: Sequence[bool]) -> int:
        """Of a guidance pass that is asked for in these steps: after a step without it, it runs all tokens."""
        return sum(now and i > 0 and asked[i - 1] and self.partial(i) for i, now in enumerate(asked))

    def tokens(self, tokens: int) -> int:
        """How many of so many tokens are active."""
        return tokens - int(round((1 - self.share) * tokens, 6))

    def chosen(self, score: Tensor, left_out: Tensor) -> Tensor:
        """The active tokens, bool [B, L], by their score and how often each was left out, both [B, L]."""
        import torch

        sign = 1 if self.active == "high" else -1
        ranked = score.double() * torch.exp(sign * self.starvation * left_out.double())
        best = ranked.argsort(dim=1, descending=self.active == "high", stable=True)[:, : self.tokens(score.shape[1])]
        return torch.zeros_like(score, dtype=torch.bool).scatter(1, best, True)


def token_scores(velocity: Tensor, patch: Sequence[int]) -> Tensor:
    """Standard deviation over channels of a velocity [B, C, T, H, W], averaged over patches: [B, L] in (t, h, w)."""
    deviation = velocity.float().std(dim=1)
    for axis, side in enumerate(patch):
        deviation = deviation.unflatten(1 + 2 * axis, (-1, side))
    return deviation.mean(dim=(2, 4, 6)).flatten(1)


@dataclass
class _Memory:
    """What one guidance pass keeps between steps: keys and values by layer, and its output, in the plans' order."""

    step: int = -2
    keys: dict[nn.Module, Tensor] = field(default_factory=dict)
    values: dict[nn.Module, Tensor] = field(default_factory=dict)
    output: Tensor | None = None


class Regions:
    """Region-adaptive sampling on one transformer; made by :func:`install_regions`.

    Hooks hold this object, which therefore holds the transformer weakly.

    Attributes:
        schedule: Of the row.
    """

    def __init__(self, transformer: nn.Module, installation: GclfInstallation, schedule: RegionSchedule) -> None:
        self.schedule = schedule
        self._installation, self._transformer = installation, weakref.ref(transformer)
        self._patch = tuple(transformer.config.patch_size)
        self._handles: list[Any] = []
        self._tiles: dict[Any, Any] = {}
        self.begin(0)

    def begin(self, steps: int) -> None:
        """A clip of so many steps: nothing is taken over from the one before."""
        self._steps, self._step = steps, 0
        self._memories: dict[str, _Memory] = {}
        self._memory: _Memory | None = None
        self._active: Tensor | None = None
        self._left_out: Tensor | None = None
        self._some: Some | None = None
        self._wanted = False

    def within(self, name: str, predict: Predict) -> Predict:
        """A guidance pass with keys, values and output of its own."""

        def passing(x: Tensor, sigma: Tensor) -> Tensor:
            """With this pass's memory at work, and of active tokens alone where it ran the step before."""
            memory = self._memories.setdefault(name, _Memory())
            self._memory = memory
            self._wanted = self._active is not None and memory.step == self._step - 1
            try:
                out = predict(x, sigma)
            finally:
                self._memory = self._some = None
            memory.step = self._step
            return out

        return passing

    def stepping(self, predict: Predict) -> Predict:
        """The guided velocity, to be asked for once a step; after each the active tokens of the next are chosen."""

        def step(x: Tensor, sigma: Tensor) -> Tensor:
            velocity = predict(x, sigma)
            self._active = self._choose(velocity) if self._next_is_partial else None
            self._step += 1
            return velocity

        return step

    @property
    def _next_is_partial(self) -> bool:
        return self._step + 1 < self._steps and self.schedule.partial(self._step + 1)

    def _choose(self, velocity: Tensor) -> Tensor:
        score = token_scores(velocity, self._patch)
        left_out = score.new_zeros(score.shape) if self._left_out is None else self._left_out
        active = self.schedule.chosen(score, left_out)
        self._left_out = left_out + ~active
        return active

    def attend(
        self, plan: WindowPlan, layer: nn.Module, q: Tensor, k: Tensor, v: Tensor, scale: float | None
    ) -> Tensor:
        """Self-attention of a block: of all tokens, or of the active ones over keys and values of all."""
        from vibe_pipeline.diffusion.attention.some import attend_some

        memory = self._memory
        if memory is None or self._some is None:
            if memory is not None and self._next_is_partial:
                memory.keys[layer], memory.values[layer] = k, v
            return plan(q, k, v, scale)
        kept = ((memory.keys[layer], k), (memory.values[layer], v))
        k, v = (self._some.put(into, new, 2) for into, new in kept)
        return attend_some(plan, q, k, v, self._some, scale)

    def attach(self) -> None:
        """Hooks behind those of the attention, so that tokens are taken in its order; before it where they go back."""
        from vibe_pipeline.diffusion.lifetime import living

        transformer = living(self._transformer)
        self._installation.attends = self.attend
        self._handles = [
            transformer.rope.register_forward_hook(self._take_rope),
            transformer.patch_embedding.register_forward_hook(self._take_patches),
            transformer.condition_embedder.register_forward_pre_hook(self._take_timesteps, with_kwargs=True),
            transformer.proj_out.register_forward_hook(self._fill_up, prepend=True),
        ]

    def detach(self) -> None:
        """Take the hooks away and free what is kept."""
        for handle in self._handles:
            handle.remove()
        self._installation.attends = None
        self.begin(0)

    def _take_rope(self, rope: nn.Module, args: Any, tables: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """The first hook of a forward: here the active tokens are brought into the plans' order."""
        from vibe_pipeline.diffusion.attention.geometry import reorder_tokens
        from vibe_pipeline.diffusion.attention.some import Some

        if self._memory is None or not self._wanted or self._active is None:
            return None
        plan = self._installation.plans[0]
        active = reorder_tokens(self._active, plan.grid, 1, "hwt") if plan.order == "hwt" else self._active
        index = active.nonzero()[:, 1].view(len(active), -1)
        self._some = Some(index, self._tiles)
        return tuple(self._some.of(table, 1) for table in tables)

    def _take_patches(self, module: nn.Module, args: Any, patches: Tensor) -> Tensor | None:
        return None if self._some is None else self._some.of(patches.flatten(2), 2)

    def _take_timesteps(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        length = kwargs.get("timestep_seq_len")
        if self._some is None or length is None:
            return None
        steps = self._some.of(args[0].unflatten(0, (-1, length)), 1)
        return (steps.flatten(), *args[1:]), kwargs | {"timestep_seq_len": steps.shape[1]}

    def _fill_up(self, module: nn.Module, args: Any, out: Tensor) -> Tensor | None:
        memory = self._memory
        if memory is None:
            return None
        if self._some is None or memory.output is None:
            memory.output = out.clone() if self._next_is_partial else None
            return None
        return self._some.put(memory.output, out, 1).clone()


def install_regions(
    transformer: nn.Module, schedule: RegionSchedule, settings: AttentionSettings, native_grid: NativeGrid | None
) -> Regions:
    """Put region-adaptive sampling on a Wan transformer that has its attention already.

    Args:
        transformer: With `install_gclf`'s attention on it; of plain full attention the same is installed here.
        schedule: Of the row.
        settings: Its attention.
        native_grid: (H, W) of the native token grid.

    Raises:
        ValueError: A kind of attention that cannot attend some queries alone.
    """
    from vibe_pipeline.diffusion.attention import GclfAttnProcessor, GclfInstallation

    processor = transformer.blocks[0].attn1.processor
    if isinstance(processor, GclfAttnProcessor):
        installation = processor.installation
    else:
        installation = GclfInstallation(transformer, settings, native_grid, "auto")
        installation.attach(None)
    require_selective(installation.kind)
    regions = Regions(transformer, installation, schedule)
    regions.attach()
    return regions


def require_selective(kind: Any) -> None:
    """Refuse an attention kind that cannot attend some queries alone.

    Raises:
        ValueError: Names those that can.
    """
    from vibe_pipeline.diffusion.attention import KINDS

    if not kind.selective:
        known = ", ".join(name for name, other in KINDS.items() if other.selective)
        raise ValueError(f"region_adaptive goes with the attention kinds {known}, not with {kind.name}")
