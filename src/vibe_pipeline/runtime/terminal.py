"""What the terminal shows: whole lines, never a piece of a bar, and no warning that a user cannot act on."""

import logging
import os
import sys
import traceback
import warnings
from contextlib import suppress
from pathlib import Path

from vibe_pipeline.io.redact import redact

RUN_LOG = "VIBE_RUN_LOG"
"""The file that keeps all that a run says; an environment variable, because nodes run in worker processes."""
CLEAR = "\r\x1b[K"
FORMAT = "%(asctime)s %(levelname)-7s %(message)s"

HUSHED = (
    r"register_new_resolver\(\) is deprecated",  # OmegaConf, of Kedro
    r"Mismatch dtype between input and weight",  # torch, of a norm that autocast leaves in 32 bits: slower, not wrong
)
"""Warnings of libraries about each other, by their first words."""


def hush() -> None:
    """Leave out warnings that only the libraries' authors can act on."""
    for words in HUSHED:
        warnings.filterwarnings("ignore", words)


class WholeLines(logging.Handler):
    """A log on standard error: each message in one write, on a line that no bar stands on; and in the run's file.

    One write, because several processes share the terminal. A record with `bare` has no time and no level.
    """

    def __init__(self, form: str = FORMAT) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter(form, "%H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        """Write it; a terminal that went away ends nothing."""
        try:
            bare = getattr(record, "bare", False)
            text = record.getMessage() if bare else self.format(record)
        except Exception:  # what logging does with a message that does not fit its arguments
            self.handleError(record)
            return
        _append(text)
        show(text)


def show(text: str, end: str = "\n") -> None:
    """Put a text on standard error in one write, in place of a line that is being redrawn."""
    with suppress(OSError, ValueError):
        clear = CLEAR if sys.stderr.isatty() else ""
        sys.stderr.flush()
        _write_all(f"{clear}{text}{end}")


def _write_all(text: str) -> None:
    """To the descriptor itself, whose locks a forked process does not inherit; to the stream where it has none."""
    try:
        descriptor = sys.stderr.fileno()
    except (OSError, ValueError, AttributeError):
        sys.stderr.write(text)
        return
    left = text.encode("utf-8", "backslashreplace")
    while left:
        left = left[os.write(descriptor, left) :]


def _append(text: str) -> None:
    """Into the run's file, if there is one."""
    place = os.environ.get(RUN_LOG)
    if place:
        with suppress(OSError), Path(place).open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")


def whole_lines() -> None:
    """Let the root logger write whole lines instead of through the stream that conf/logging.yml names.

    Kedro takes no handler of a project's own in its file. A second call changes nothing.
    """
    hush()
    root = logging.getLogger()
    if any(isinstance(handler, WholeLines) for handler in root.handlers):
        return
    for handler in root.handlers:
        if type(handler) is logging.StreamHandler and handler.stream in (sys.stderr, sys.__stderr__):
            root.removeHandler(handler)
            root.addHandler(WholeLines())
            return


def keep_log(place: Path) -> None:
    """Begin the file that keeps all that this run says, and what is too much for the terminal; one run, one file."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("", encoding="utf-8")
    os.environ[RUN_LOG] = str(place.absolute())


def close_log() -> None:
    """The run is over."""
    os.environ.pop(RUN_LOG, None)


def keep_error(error: BaseException) -> Path:
    """Put an error with its traceback into the run's file, and return the file as a user would name it."""
    place = Path(os.environ[RUN_LOG])
    _append(redact("".join(traceback.format_exception(error))))
    return Path(os.path.relpath(place)) if place.is_relative_to(Path.cwd()) else place
