"""A run's time budget: long work asks between two finished pieces whether to go on, so that stopping loses nothing.

The deadline travels in the environment, because nodes run in worker processes.
"""

import os
import time

DEADLINE = "VIBE_DEADLINE"


class OutOfTimeError(RuntimeError):
    """The run's hours are spent; everything finished is kept."""


def set_deadline(hours: float | None) -> None:
    """Start the clock; None: no limit."""
    os.environ.pop(DEADLINE, None)
    if hours is not None:
        os.environ[DEADLINE] = str(time.time() + 3600 * hours)


def out_of_time() -> bool:
    """Whether the hours are spent."""
    return time.time() > float(os.environ.get(DEADLINE, "inf"))


def spent(kept: str) -> str:
    """What is said of spent hours, with what is kept."""
    return f"run.hours are spent; kept: {kept}. The same command goes on from there"


def require_time(kept: str) -> None:
    """Stop here if the hours are spent.

    Args:
        kept: What is finished, for the message.

    Raises:
        OutOfTimeError: They are.
    """
    if out_of_time():
        raise OutOfTimeError(spent(kept))
