"""Tables of entries, one file or class each, that settings choose from by name: attention kinds, rotary positions."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Protocol, TypeVar

Entry = TypeVar("Entry")


class Chosen(Protocol):
    """Settings that name an entry; the entry's own fields stand beside."""

    @property
    def kind(self) -> str:
        """A name in the table."""


def known_entry(name: str, table: Mapping[str, Any], what: str) -> str:
    """The name of an entry, as it is.

    Raises:
        ValueError: There is none of that name; lists those there are.
    """
    if name not in table:
        raise ValueError(f"unknown {what} {name!r}; known: {', '.join(table)}")
    return name


def chosen_entry(settings: Chosen, table: Mapping[str, type[Entry]], what: str) -> Entry:
    """The entry that settings name, with its own fields filled in; those that they lack keep their defaults.

    Raises:
        ValueError: There is none of that name.
    """
    entry = table[known_entry(settings.kind, table, what)]
    own = (f.name for f in fields(entry))  # type: ignore[arg-type]  # every entry is a dataclass
    return entry(**{name: getattr(settings, name) for name in own if hasattr(settings, name)})
