"""One run at a time in a project: two would write the same tables.

The lock is the operating system's, so a killed run leaves none behind. Shards of one generation may run side by
side; a run without a shard waits for all of them.
"""

import fcntl
import json
import logging
import os
import shlex
import socket
import sys
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from vibe_pipeline.io.redact import redact

log = logging.getLogger(__name__)

Locks = list[IO[str]]


class ProjectBusyError(RuntimeError):
    """Another run works in this project."""


def lock_project(folder: Path, shard: str | None = None, wait: bool = False) -> Locks:
    """Take the project for this process; closing what is returned, or dying, gives it back.

    Args:
        folder: Where the lock files are kept: the data folder that the runs share.
        shard: i/n of a generation shard; those of other shards may be held at the same time.
        wait: Queue behind the run that holds it.

    Raises:
        ProjectBusyError: Another run holds it; says which, since when, and how to wait.
    """
    folder.mkdir(parents=True, exist_ok=True)
    locks = [_take(folder / ".run.lock", exclusive=shard is None, wait=wait)]
    if shard is not None:
        try:
            locks.append(_take(folder / f".run-{shard.replace('/', 'of')}.lock", exclusive=True, wait=wait))
        except ProjectBusyError:
            unlock(locks)
            raise
    return locks


def unlock(locks: Locks) -> None:
    """Give the project back."""
    for stream in locks:
        stream.close()


def _take(path: Path, exclusive: bool, wait: bool) -> IO[str]:
    # Never truncated on opening: the holder's description is in it.
    stream = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+")
    kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    try:
        fcntl.flock(stream, kind | fcntl.LOCK_NB)
    except OSError as error:
        holder = _describe(stream.read())
        if not wait:
            stream.close()
            raise ProjectBusyError(
                f"another run works in this project: {holder}. Wait for it to end, or queue behind it with "
                "--params=run.wait=true"
            ) from error
        log.warning("waiting for another run in this project: %s", holder)
        fcntl.flock(stream, kind)
    stream.seek(0)
    stream.truncate()
    json.dump(_identity(), stream)
    stream.flush()
    return stream


def _identity() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now().isoformat(" ", "seconds"),
        "command": redact(shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])),
    }


def _describe(content: str) -> str:
    try:
        who = json.loads(content)
        return f"process {who['pid']} on {who['host']}, since {who['since']}, `{who['command']}`"
    except (json.JSONDecodeError, KeyError, TypeError):
        return "one that has not said yet which it is"
