"""`adaspa`: block-sparse attention whose blocks are searched for while a clip is made (AdaSpa, arXiv 2502.21079)."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Annotated, ClassVar

from pydantic import Field, PositiveInt

from vibe_pipeline.diffusion.attention.choice import Kernel, block_backend
from vibe_pipeline.diffusion.attention.geometry import BACKENDS, Grid, NativeGrid
from vibe_pipeline.diffusion.attention.kinds.base import AttentionKind, AttentionPlan, Place

SEARCH = 0.5
"""What a search costs in keys of full attention: it compares all of them, and weighs no values."""


@dataclass(frozen=True)
class AdaSpa(AttentionKind):
    """Full attention in the first steps; then each block of queries sees the blocks of keys that weighed most in it.

    The last full step keeps every query's log-sum-exp and searches: it adds up softmax weights by block. Later searches
    take over the log-sum-exp, which changes little from step to step. Each layer, head, clip and guidance pass has
    blocks of its own; heads that lose little see half as many, those that lose most as many more.

    Attributes:
        sparsity: Share of key blocks that are left out, on the average over heads.
        block: Tokens of a block, one after another in the order of the tokens.
        search_steps: Steps of a pass, from 1, that search; up to the first of them attention is full.
        recall: Share of its weights above which a head has blocks to give away; 1: every head sees as many.
    """

    name: ClassVar[str] = "adaspa"
    backends: ClassVar[tuple[str, ...]] = BACKENDS
    stepwise: ClassVar[bool] = True
    copies: ClassVar[float] = 2  # what a search works on, and keys and values of the blocks at work

    sparsity: Annotated[
        float, Field(ge=0, lt=1, description="adaspa: share of key blocks left out, mean over heads; 0: none")
    ] = 0.8
    block: Annotated[
        int, Field(ge=8, multiple_of=8, description="adaspa: tokens of a block, 64 as published; on CUDA n x 64")
    ] = 64
    search_steps: Annotated[
        tuple[PositiveInt, ...],
        Field(min_length=1, description="adaspa: steps that search, from 1, rising; attention is full up to the first"),
    ] = (10, 30)
    recall: Annotated[
        float, Field(gt=0, le=1, description="adaspa: share of weights kept above which a head gives blocks away")
    ] = 0.8

    def __post_init__(self) -> None:
        """Refuse steps that do not rise.

        Raises:
            ValueError: Names them.
        """
        if list(self.search_steps) != sorted(set(self.search_steps)):
            raise ValueError(f"search_steps must rise from one to the next, not {list(self.search_steps)}")

    def blocks(self, grid: Grid) -> int:
        """Blocks of a grid; the last may be shorter."""
        return -(-math.prod(grid) // self.block)

    def kept(self, grid: Grid) -> int:
        """Key blocks that a block of queries sees, on the average over heads."""
        return kept_blocks(self.blocks(grid), self.sparsity)

    def keys(self, grid: Grid, native: NativeGrid | None, layer: int) -> float:
        """Those of the blocks that are seen once the search is over."""
        return self._seen(grid)

    def kernels(self, grid: Grid, native: NativeGrid | None, layer: int, device: str) -> dict[Kernel, float]:
        """Once the search is over."""
        backend = block_backend(math.prod(grid), self.block, "auto", device)
        if backend == "dense":
            return {"masked": float(math.prod(grid))}
        return {"flex" if backend == "flex" else "gather": self._seen(grid)}

    def plan(self, place: Place) -> AttentionPlan:
        """One for each layer, as each keeps blocks of its own."""
        from vibe_pipeline.diffusion.attention.blocks import plan_blocks

        return plan_blocks(self, place)

    def require_calls(self, calls: int) -> None:
        """Every search happens, and a sparse step follows the last."""
        if self.search_steps[-1] >= calls:
            raise ValueError(
                f"attention.search_steps {list(self.search_steps)} needs a step after the last, and the pass has "
                f"{calls}: set earlier ones, such as [{max(1, calls // 5)}]"
            )

    def during(self, calls: int) -> AttentionKind:
        """The mean of full, searching and sparse steps."""
        own = {field.name: getattr(self, field.name) for field in fields(AdaSpa)}
        return CountedAdaSpa(**own, calls=calls)

    def kept_bytes(self, grid: Grid, heads: int) -> float:
        """The log-sum-exp in 32 bit, and the places of the most blocks that a head can see, in 16 bit."""
        blocks = self.blocks(grid)
        most = self.kept(grid) + head_step(blocks, self.kept(grid))
        return heads * (4.0 * math.prod(grid) + 2.0 * blocks * most)

    def multiples(self, grid: Grid) -> Grid:
        """Any grid of two blocks or more."""
        if self.sparsity and self.kept(grid) == self.blocks(grid):
            raise ValueError(
                f"adaspa leaves nothing out of {math.prod(grid)} tokens in {self.blocks(grid)} blocks of {self.block}: "
                "set attention.block lower"
            )
        return (1, 1, 1)

    def variant(self, layer: int) -> int:
        """Each layer has blocks of its own."""
        return layer

    def words(self) -> tuple[str, ...]:
        """How much is left out, and when."""
        adaptive = () if self.recall < 1 else ("all heads alike",)
        at = ", ".join(map(str, self.search_steps))
        return (f"{self.sparsity:.0%} of blocks of {self.block} left out, searched at step {at}", *adaptive)

    def _seen(self, grid: Grid) -> float:
        return math.prod(grid) * self.kept(grid) / self.blocks(grid)


@dataclass(frozen=True)
class CountedAdaSpa(AdaSpa):
    """AdaSpa over the forwards of one pass, for a plan.

    Attributes:
        calls: How many forwards the pass has.
    """

    calls: int = 1

    def keys(self, grid: Grid, native: NativeGrid | None, layer: int) -> float:
        """The mean over the forwards, a search counted as half of full attention."""
        full, searches, sparse = self._shares(math.prod(grid))
        return full + searches + sparse * self._seen(grid)

    def kernels(self, grid: Grid, native: NativeGrid | None, layer: int, device: str) -> dict[Kernel, float]:
        """Full steps without a mask; what a search runs takes about as long as SDPA with one."""
        full, searches, sparse = self._shares(math.prod(grid))
        found: dict[Kernel, float] = {"sdpa": full, "masked": searches}
        for name, keys in super().kernels(grid, native, layer, device).items():
            found[name] = found.get(name, 0.0) + sparse * keys
        return found

    def _shares(self, tokens: int) -> tuple[float, float, float]:
        """Keys of full steps and of searches, and the share of sparse steps."""
        full = min(self.calls, self.search_steps[0])
        searches = sum(step <= self.calls for step in self.search_steps)
        return tokens * full / self.calls, SEARCH * tokens * searches / self.calls, (self.calls - full) / self.calls


def kept_blocks(blocks: int, sparsity: float) -> int:
    """How many of so many key blocks are left, one at the least."""
    return max(1, round((1 - sparsity) * blocks))


def head_step(blocks: int, kept: int) -> int:
    """By how many blocks heads differ from the average: half of it, (1 - sparsity) / 2 as published, if there are."""
    return min(kept // 2, blocks - kept)
