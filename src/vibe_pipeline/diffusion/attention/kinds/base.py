"""What an attention kind is: which keys each query of self-attention sees, and how that is computed.

A kind is a frozen dataclass, and its fields are what a row may set beside `kind` and `scale`. Each is one entry in one
file of this folder. Parameters, plan and checks read the entries too, so torch is imported where attention is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol

from vibe_pipeline.diffusion.attention.choice import Kernel
from vibe_pipeline.diffusion.attention.geometry import Grid, NativeGrid, Order, Windows
from vibe_pipeline.diffusion.attention.steps import Steps

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Place:
    """Where attention is to be computed.

    Attributes:
        grid: (T, H, W) in tokens.
        native: (H, W) of the native token grid; None: not known.
        device: Where q, k and v will live.
        backend: One of the kind's `backends`.
        order: The order of the tokens, if one is asked for; None: the kind's choice.
        layer: Index of the transformer's block.
        steps: Which forward of a clip is running, for kinds that are `stepwise`.
    """

    grid: Grid
    native: NativeGrid | None = None
    device: torch.device | str = "cpu"
    backend: str = "auto"
    order: Order | None = None
    layer: int = 0
    steps: Steps = field(default_factory=Steps)


class AttentionPlan(Protocol):
    """What one place needs, built once: called with q, k, v [B, heads, L, D] in `order`, it returns the shape of q.

    Of a kind that `rotates` it gets q and k before RoPE, and the tables as the keyword `rotary` (a `Rotary`).
    """

    @property
    def grid(self) -> Grid:
        """(T, H, W) in tokens."""

    @property
    def order(self) -> Order:
        """How the grid is flattened to L tokens, slowest axis first."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
        """Attend; `scale` None is 1 / sqrt(D)."""


@dataclass(frozen=True)
class FunctionPlan:
    """A plan that is one function of q, k, v and scale (and rotary, of a kind that rotates)."""

    grid: Grid
    attend: Callable[..., Tensor]
    order: Order = "thw"

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, scale: float | None = None, **rotary: object) -> Tensor:
        """Attend: [B, heads, L, D] each, in the plan's order."""
        return self.attend(q, k, v, scale, **rotary)


@dataclass(frozen=True)
class AttentionKind:
    """One kind of self-attention; subclasses fill in what differs, and must give `keys` and `plan`.

    Attributes:
        name: As `attention.kind` says it.
        backends: Ways to compute it that may be asked for; "auto" is the kind's own choice.
        stock: Without a scale of its own it is what diffusers computes, so nothing is installed.
        local: Every query sees its neighbourhood alone, as FreeSwim's first path must.
        rotates: It applies RoPE itself; its plans get q and k before RoPE.
        windowed: `windows` says which keys a query sees, so that AR-RoPE can turn them by tiles.
        stepwise: What it computes depends on the step of a clip, so it is for inference alone.
        selective: Some queries alone can be attended over all keys (its plan is a `WindowPlan`).
        copies: How often q, k, v or the output are held once more while attention is computed; for the plan's memory.
    """

    name: ClassVar[str]
    backends: ClassVar[tuple[str, ...]] = ("auto",)
    stock: ClassVar[bool] = False
    local: ClassVar[bool] = False
    rotates: ClassVar[bool] = False
    windowed: ClassVar[bool] = False
    stepwise: ClassVar[bool] = False
    selective: ClassVar[bool] = False
    copies: ClassVar[float] = 0

    def keys(self, grid: Grid, native: NativeGrid | None, layer: int) -> float:
        """Keys that a query of this layer is compared with, on the average; what attention costs follows from it.

        Raises:
            ValueError: The grid does not fit.
        """
        raise NotImplementedError

    def kernels(self, grid: Grid, native: NativeGrid | None, layer: int, device: str) -> dict[Kernel, float]:
        """What computes a layer on a type of device, and the keys that each compares a query with to that end.

        Raises:
            ValueError: The grid does not fit.
        """
        return {"sdpa": self.keys(grid, native, layer)}

    def plan(self, place: Place) -> AttentionPlan:
        """Everything that is slow, done once for a place.

        Raises:
            ValueError: The grid does not fit; names the nearest that do.
        """
        raise NotImplementedError

    def windows(self, grid: Grid, native: NativeGrid | None, layer: int = 0) -> Windows:
        """Which keys a query of a layer sees, of a kind that is `windowed`.

        Raises:
            ValueError: The grid does not fit.
        """
        raise NotImplementedError

    def check(self, native: NativeGrid | None) -> None:
        """Refuse settings that fit no grid; `native` is (H, W) in tokens.

        Raises:
            ValueError: Names the field and the way out.
        """

    def require_layers(self, layers: int) -> None:
        """Refuse a transformer of so many layers, of a kind that tells them apart.

        Raises:
            ValueError: Names the field and the way out.
        """

    def require_calls(self, calls: int) -> None:
        """Refuse a pass of so many forwards, of a kind that is `stepwise`.

        Raises:
            ValueError: Names the field and the way out.
        """

    def during(self, calls: int) -> AttentionKind:
        """The kind as a plan counts it over so many forwards of one guidance pass, on the average."""
        return self

    def kept_bytes(self, grid: Grid, heads: int) -> float:
        """What a layer of so many heads keeps between forwards, of one clip and one guidance pass."""
        return 0.0

    def multiples(self, grid: Grid) -> Grid:
        """What the axes (T, H, W) of a token grid must divide by, for one near `grid`."""
        return (1, 1, 1)

    def variant(self, layer: int) -> Hashable:
        """Layers of one variant share a plan."""
        return None

    def words(self) -> tuple[str, ...]:
        """What the report says behind the name."""
        return ()
