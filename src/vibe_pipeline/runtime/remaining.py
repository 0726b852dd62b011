"""What is left of a run, from what its nodes took so far: nodes of one kind are taken to last alike."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean


@dataclass(frozen=True)
class Seen:
    """What is known of nodes, in seconds by name.

    Attributes:
        done: Those that are finished.
        spent: Those that run: since they began.
        whole: Of those that run and show how far they are: from beginning to end.
    """

    done: Mapping[str, float] = field(default_factory=dict)
    spent: Mapping[str, float] = field(default_factory=dict)
    whole: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Left:
    """Seconds that the rest takes; `at_least` where it holds kinds of nodes of which none was seen yet."""

    seconds: float
    at_least: bool

    def __str__(self) -> str:
        """`about 4 min left`; empty where nothing useful is known."""
        minutes = self.seconds / 60
        if self.seconds < 1:
            return ""
        if self.seconds < 90:
            said = f"{self.seconds:.0f} s"
        else:
            said = f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"
        return f"{'more than' if self.at_least else 'about'} {said} left"


def kind_of(name: str) -> str:
    """What a node does, without the row it does it for: `arms.full.generate` and `arms.truth.generate` are alike."""
    parts = name.split(".")
    return f"{parts[0]}.{parts[-1]}" if len(parts) > 2 else name


def time_left(parents: Mapping[str, frozenset[str]], at_once: int, seen: Seen) -> Left:
    """How long the rest takes: its work shared among those side by side, but no less than its longest chain.

    Args:
        parents: By the name of each node, those that it needs.
        at_once: How many nodes run side by side.
        seen: What is known of nodes.
    """
    by_kind: dict[str, list[float]] = {}
    for name, seconds in {**seen.whole, **seen.done}.items():
        by_kind.setdefault(kind_of(name), []).append(seconds)
    rest: dict[str, float] = {}
    unknown = False
    for name in parents:
        if name in seen.done:
            continue
        known = [seen.whole[name]] if name in seen.whole else by_kind.get(kind_of(name), [])
        # Nodes that are alone of their kind, tables for example, take seconds: of them no "more than" is made.
        unknown |= not known and len(name.split(".")) > 2
        rest[name] = max(0.0, (fmean(known) if known else 0.0) - seen.spent.get(name, 0.0))
    longest = _longest_chain(parents, rest)
    return Left(max(sum(rest.values()) / max(1, at_once), longest), unknown)


def _longest_chain(parents: Mapping[str, frozenset[str]], rest: Mapping[str, float]) -> float:
    """Seconds of the slowest way through what is left."""
    ends: dict[str, float] = {}
    for start in rest:
        path = [start]
        while path:
            name = path[-1]
            waiting = [p for p in parents[name] if p in rest and p not in ends]
            if waiting:
                path.extend(waiting)
                continue
            ends[name] = rest[name] + max((ends[p] for p in parents[name] if p in rest), default=0.0)
            path.pop()
    return max(ends.values(), default=0.0)
