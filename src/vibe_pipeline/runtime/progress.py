"""How far long work is: told by whatever process does it, shown by the one process that owns the terminal.

While a `kedro run` owns it (:mod:`vibe_pipeline.runtime.live`), a bar is a small file in the run's folder, and every
bar of every process ends up on one line. Elsewhere (a command, a notebook, a test) it is tqdm's own bar.
"""

import itertools
import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

LIVE = "VIBE_LIVE"
"""The folder of a run's live state: an environment variable, because nodes run in worker processes."""
PAUSE = 0.5  # seconds between two writes of a bar

T = TypeVar("T")
_numbers = itertools.count()


def live_folder() -> Path | None:
    """Where this run's live state is kept; None outside a run."""
    folder = os.environ.get(LIVE)
    return Path(folder) if folder else None


class Progress(Generic[T]):
    """A bar: a context manager, or wrapped around what is iterated over.

    Args:
        iterable: What to go through; None: :meth:`update` is called.
        total: How many there are; None: not known.
        desc: The row's name, or what is done.
        unit: What is counted.
        initial: How many were done before.
        hidden: Show nothing, as one of several processes that do the same.
    """

    def __init__(
        self,
        iterable: Iterable[T] = (),
        *,
        total: int | None = None,
        desc: str = "",
        unit: str = "step",
        initial: int = 0,
        hidden: bool = False,
    ) -> None:
        self._iterable, self._hidden, self.n = iterable, hidden, initial
        self._told: dict[str, Any] = {"desc": desc, "unit": unit, "total": total, "initial": initial}
        self._told |= {"pid": os.getpid(), "begun": time.time()}
        self._written = 0.0
        self._file, self._bar = self._places()

    def _places(self) -> tuple[Path | None, Any]:
        folder = live_folder()
        if self._hidden or folder is not None:
            own = f"bar-{os.getpid()}-{next(_numbers)}.json"
            return (None if self._hidden or folder is None else folder / own), None
        from tqdm import tqdm

        told = self._told
        return None, tqdm(
            total=told["total"], desc=told["desc"], unit=told["unit"], initial=self.n, leave=False, mininterval=2
        )

    def update(self, done: int = 1) -> None:
        """So many more are done."""
        self.n += done
        if self._bar is not None:
            self._bar.update(done)
        self._write()

    def set_postfix(self, **values: str) -> None:
        """What stands behind the bar."""
        self._told["note"] = ", ".join(f"{name} {value}" for name, value in values.items())
        if self._bar is not None:
            self._bar.set_postfix(**values)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
        if self._file is not None:
            with suppress(OSError):
                self._file.unlink(missing_ok=True)

    def _write(self) -> None:
        if self._file is None or time.monotonic() - self._written < PAUSE:
            return
        self._written = time.monotonic()
        with suppress(OSError):  # a bar that cannot be shown is no reason to stop what it counts
            self._file.write_text(json.dumps(self._told | {"n": self.n, "at": time.time()}))

    def __iter__(self) -> Iterator[T]:
        """Every item; the bar goes with the last."""
        with self:
            for item in self._iterable:
                yield item
                self.update()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
