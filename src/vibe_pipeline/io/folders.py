"""Where nodes keep what they make: under the project's `data`, or under a rehearsal's own folder.

The place travels in the environment, because nodes run and train in worker processes.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DATA = "VIBE_DATA"


def in_data(place: str) -> Path:
    """A place below the data folder, such as `06_models/adapters`."""
    return Path(os.environ.get(DATA, "data")) / place


@contextmanager
def data_in(folder: Path) -> Iterator[None]:
    """Let every node inside keep what it makes below `folder`."""
    before = os.environ.get(DATA)
    os.environ[DATA] = str(folder)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(DATA)
        else:
            os.environ[DATA] = before
