"""One thing that a run needs: what a run stops at and `kedro vibe doctor` shows is a list of these."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One thing that a run needs.

    Attributes:
        item: What: the field that names it.
        look: Says what is there; a ValueError, OSError or ImportError says in one line what is wrong.
        fix: The command or the setting that mends it.
    """

    item: str
    look: Callable[[], str]
    fix: str
