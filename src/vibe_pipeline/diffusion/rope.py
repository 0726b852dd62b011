"""Rotary positions beyond the native size: `ROPES` lists every kind, one entry each.

Wan turns queries and keys by angles of three axes (t, h, w). A kind changes the angles of an axis (`ntk`), by how much
larger than native the grid is and at which noise level (rope_scaled.py), or where keys stand as seen from a tile of
queries (`ar`, which attention/relative.py computes). To add one, write a frozen dataclass under `RopeKind` and list it
in `ROPES`: the fields of `rope` in a row, the tables, checks and the report follow. torch is imported where tables are
made: parameters and plans read the entries without it.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from vibe_pipeline.diffusion.entries import Chosen, chosen_entry, known_entry
from vibe_pipeline.diffusion.rope_base import RopeKind, RopePlace, ntk_angles
from vibe_pipeline.diffusion.rope_scaled import Dype, TimeAware, VisionYarn, Yarn

if TYPE_CHECKING:
    from torch import Tensor, nn

Pair = tuple[PositiveInt, PositiveInt]


def relative_positions(length: int, start: int, stop: int, reach: int, near: int) -> Tensor:
    """Where the keys of an axis stand for the queries of the tile [start, stop): never further than `reach` from any.

    Keys in the tile and up to `near` beside it keep their places; those beyond are squeezed evenly into what is left
    of the reach on their side. Rounded to whole positions, so that they can be looked up in the tables of the grid.

    Args:
        length: Tokens of the axis.
        start: First query of the tile.
        stop: One past its last.
        reach: Largest distance of a key from a query, in tokens: what the base was trained with.
        near: How far beside the tile distances stay true, in tokens.

    Returns:
        int64 [length], not falling, each in [0, length).

    Raises:
        ValueError: The tile is empty, outside of the axis, or longer than the reach.

    Source: AR-RoPE of CineScale's second release (Eyeline-Labs/CineScale, `wan/modules/model.py`, Apache-2.0).
    """
    import torch

    if not 0 <= start < stop <= length:
        raise ValueError(f"the tile [{start}, {stop}) is not a part of an axis of {length} tokens")
    first, last, end = start, stop - 1, length - 1
    _require_reach(stop - start, reach)
    budget = reach - (last - first)
    left, right = first - min(near, first, budget), last + min(near, end - last, budget)
    lowest, highest = max(0, last - reach), min(end, first + reach)
    place = torch.arange(length, dtype=torch.float64)
    warped = place.clone()
    if left > 0 and lowest > 0:
        warped = torch.where(place < left, lowest + place * (left - lowest) / left, warped)
    if highest < end:
        warped = torch.where(place > right, right + (place - right) * (highest - right) / (end - right), warped)
    return warped.round().clamp(0, end).long()


def _require_reach(tokens: int, reach: int) -> None:
    if tokens - 1 > reach:
        raise ValueError(
            f"a tile of {tokens} tokens is longer than its keys may reach, {reach}: set rope.tile to at most "
            f"{reach + 1} there, or rope.reach higher"
        )


@dataclass(frozen=True)
class Plain(RopeKind):
    """As the base was trained: each token's own place."""

    name: ClassVar[str] = "none"
    stock: ClassVar[bool] = True

    def words(self) -> tuple[str, ...]:
        """Nothing."""
        return ()


@dataclass(frozen=True)
class Ntk(RopeKind):
    """A larger base of the frequencies of each axis; CineScale's LoRAs were trained with (1, 20, 20).

    Attributes:
        alpha: (t, h, w): what theta is multiplied by.
    """

    name: ClassVar[str] = "ntk"

    alpha: Annotated[
        tuple[PositiveFloat, PositiveFloat, PositiveFloat],
        Field(description="(t, h, w): factor of theta 10000, for ntk; CineScale: 1, 20, 20 and, at 4K, 1, 25, 25"),
    ] = (1.0, 20.0, 20.0)

    def angles(self, axis: int, positions: Tensor, dim: int) -> Tensor:
        """With the axis' own base."""
        return ntk_angles(positions, dim, self.alpha[axis])

    def words(self) -> tuple[str, ...]:
        """The factors."""
        return ("NTK RoPE {:g} {:g} {:g}".format(*self.alpha),)


@dataclass(frozen=True)
class Ar(RopeKind):
    """CineScale's AR-RoPE: tiles of queries see all keys, at places within the reach that the base knows.

    Attributes:
        tile: (h, w) of a tile of queries, in tokens.
        reach: (h, w), the largest distance; "native": one less than the native token grid.
        near: (h, w), how far beside a tile distances stay true.
    """

    name: ClassVar[str] = "ar"
    relative: ClassVar[bool] = True
    copies: ClassVar[float] = 3  # queries, output and a tile's keys once more, with what turns them

    tile: Annotated[Pair, Field(description="(h, w) of a tile of queries in tokens, for ar")] = (18, 32)
    reach: Annotated[
        Pair | Literal["native"],
        Field(description="(h, w), largest distance of key and query in tokens, for ar; or native"),
    ] = (44, 79)
    near: Annotated[Pair, Field(description="(h, w) of tokens beside a tile at true distances, for ar")] = (9, 16)

    def check(self, grid: tuple[int, int, int], native: tuple[int, int]) -> None:
        """No tile is longer than its keys may reach."""
        for length, side, reach in zip(grid[1:], self.tile, self.reaches(native), strict=True):
            _require_reach(min(length, side), reach)

    def words(self) -> tuple[str, ...]:
        """Where it differs from the published figures."""
        said = "native reach" if self.reach == "native" else "reach {}x{}".format(*self.reach)
        tile = [] if self.tile == (18, 32) else ["tile {}x{}".format(*self.tile)]
        return (f"AR-RoPE ({', '.join([said, *tile])})",)

    def reaches(self, native: tuple[int, int] | None) -> tuple[int, int]:
        """(h, w) in tokens.

        Raises:
            ValueError: The native token grid is asked for and not known.
        """
        if self.reach != "native":
            return self.reach
        if native is None:
            raise ValueError("rope.reach native is one less than the native grid: give native_grid (H, W) in tokens")
        return native[0] - 1, native[1] - 1


KINDS = (Plain, Ntk, Yarn, VisionYarn, TimeAware, Dype, Ar)
ROPES: MappingProxyType[str, type[RopeKind]] = MappingProxyType({kind.name: kind for kind in KINDS})


def known_rope(name: str) -> str:
    """The name of a kind, as it is.

    Raises:
        ValueError: There is none of that name; lists those there are.
    """
    return known_entry(name, ROPES, "kind of RoPE")


def rope_of(settings: Chosen) -> RopeKind:
    """The entry that settings name, with its own fields filled in.

    Raises:
        ValueError: There is no kind of that name.
    """
    return chosen_entry(settings, ROPES, "kind of RoPE")


class RopeTables:
    """Another kind's tables in a transformer, until they are put back; of a scaled kind new ones for every forward."""

    def __init__(self, transformer: nn.Module, kind: RopeKind, native: tuple[int, int] | None = None) -> None:
        self._rope = weakref.ref(transformer.rope)
        self._stock = transformer.rope.freqs_cos, transformer.rope.freqs_sin
        self._kind, self._handle = kind, None
        if kind.scaled:
            if native is None:
                raise ValueError(
                    f"rope {kind.name} follows from how much larger than native the grid is: give native_grid"
                )
            self._handle = transformer.register_forward_pre_hook(partial(self._begin, native), with_kwargs=True)
        else:
            self._put(rope_tables(transformer.rope, kind))

    def _put(self, tables: tuple[Tensor, Tensor]) -> None:
        from vibe_pipeline.diffusion.lifetime import living  # with torch

        rope = living(self._rope)
        there = rope.freqs_cos.device  # the transformer may have moved
        rope.freqs_cos, rope.freqs_sin = (table.to(there) for table in tables)

    def _begin(
        self, native: tuple[int, int], transformer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """The tables of this forward's token grid and noise level; a held first frame has the level 0 beside it."""
        latent = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        timestep = kwargs["timestep"] if "timestep" in kwargs else args[1]
        grid = tuple(n // p for n, p in zip(latent.shape[2:], transformer.config.patch_size, strict=True))
        place = RopePlace(grid, native, float(timestep.max()) / 1000)
        self._put(rope_tables(transformer.rope, self._kind, place))

    def restore(self) -> None:
        """The tables that were there before, the same tensors where the transformer has not moved."""
        if self._handle is not None:
            self._handle.remove()
        if self._rope() is not None:
            self._put(self._stock)


def rope_tables(rope: Any, kind: RopeKind, at: RopePlace | None = None) -> tuple[Tensor, Tensor]:
    """cos and sin [positions, head dim] of a diffusers `WanRotaryPosEmbed`, each angle twice, in its dtype.

    `at`: where, for a scaled kind.
    """
    import torch

    positions, axes = torch.arange(rope.max_seq_len), enumerate((rope.t_dim, rope.h_dim, rope.w_dim))
    if at is None:
        angles, amplitude = [kind.angles(axis, positions, dim) for axis, dim in axes], 1.0
    else:
        angles, amplitude = [kind.angles_at(axis, positions, dim, at) for axis, dim in axes], kind.amplitude(at)
    turned = torch.cat([a.repeat_interleave(2, dim=1) for a in angles], dim=1)
    return (amplitude * turned.cos()).to(rope.freqs_cos), (amplitude * turned.sin()).to(rope.freqs_sin)


def install_rope(transformer: nn.Module, kind: RopeKind, native_grid: tuple[int, int] | None = None) -> None:
    """Give a Wan transformer the tables of a kind, in place of any given before; the stock kind takes them out.

    Of a relative kind attention does the rest: `install_gclf` with the same settings.

    Raises:
        ValueError: A scaled kind without the native token grid (H, W).
    """
    remove_rope(transformer)
    if not (kind.stock or kind.relative):
        transformer.rope.tables = RopeTables(transformer, kind, native_grid)


def remove_rope(transformer: nn.Module) -> None:
    """Put the transformer's own tables back."""
    tables = transformer.rope.__dict__.pop("tables", None)
    if tables is not None:
        tables.restore()
