"""Kinds of self-attention: `KINDS` lists every one, one file of this folder each.

To add one, write its file (a frozen dataclass under `AttentionKind`: its name, its fields, `keys`, `plan`) and list it
below. The fields of `attention` in a row, installing, FLOPs, memory, checks of sizes and the report read the entry.
"""

from typing import Protocol

from vibe_pipeline.diffusion.attention.kinds.adaspa import AdaSpa
from vibe_pipeline.diffusion.attention.kinds.base import AttentionKind, AttentionPlan, FunctionPlan, Place
from vibe_pipeline.diffusion.attention.kinds.freelong import FreeLong
from vibe_pipeline.diffusion.attention.kinds.full import Full
from vibe_pipeline.diffusion.attention.kinds.gclf import Gclf
from vibe_pipeline.diffusion.attention.kinds.proxy import Proxy
from vibe_pipeline.diffusion.attention.kinds.t3 import T3
from vibe_pipeline.diffusion.attention.kinds.window import Window
from vibe_pipeline.diffusion.attention.scales import Scale
from vibe_pipeline.diffusion.entries import chosen_entry, known_entry

KINDS: dict[str, type[AttentionKind]] = {kind.name: kind for kind in (Full, Window, Gclf, Proxy, T3, FreeLong, AdaSpa)}

__all__ = [
    "KINDS",
    "AttentionKind",
    "AttentionPlan",
    "AttentionSettings",
    "FunctionPlan",
    "Place",
    "attention_words",
    "kind_of",
    "known_kind",
    "require_windowed",
    "window_alone",
]


class AttentionSettings(Protocol):
    """What a row says of its attention; the fields of its kind stand beside these two."""

    @property
    def kind(self) -> str:
        """A name in `KINDS`."""

    @property
    def scale(self) -> Scale:
        """Of the scores."""


def known_kind(name: str) -> str:
    """The name of a kind, as it is.

    Raises:
        ValueError: There is none of that name; lists those there are.
    """
    return known_entry(name, KINDS, "attention kind")


def kind_of(settings: AttentionSettings | AttentionKind) -> AttentionKind:
    """The entry that settings name, with its own fields filled in; those that they lack keep their defaults.

    A kind is given back as it is.

    Raises:
        ValueError: There is no kind of that name, or its fields exclude each other.
    """
    if isinstance(settings, AttentionKind):
        return settings
    return chosen_entry(settings, KINDS, "attention kind")


def require_windowed(kind: AttentionKind) -> None:
    """Refuse a kind that AR-RoPE cannot turn keys for.

    Raises:
        ValueError: Names the kinds that it can.
    """
    if not kind.windowed:
        known = ", ".join(name for name, other in KINDS.items() if other.windowed)
        raise ValueError(f"rope ar goes with the attention kinds {known}, not with {kind.name}")


def window_alone(kind: AttentionKind) -> Window:
    """The window of a kind, of its own size or half the native grid, without whatever else its queries see.

    Raises:
        ValueError: Nothing else is seen, or the kind is made of more than windows; names the kinds that go.
    """
    if not kind.windowed or kind.local:
        known = ", ".join(name for name, other in KINDS.items() if other.windowed and not other.local)
        raise ValueError(f"the window alone goes beside the attention kinds {known}, not beside {kind.name}")
    return Window(half_window=getattr(kind, "half_window", None))


def attention_words(settings: AttentionSettings) -> str:
    """Kind and what differs from its defaults, for the report: `gclf (2×, half window 3x5)`."""
    kind = kind_of(settings)
    said = [*kind.words(), *([] if settings.scale is None else [f"scale {settings.scale}"])]
    return kind.name + (f" ({', '.join(said)})" if said else "")
