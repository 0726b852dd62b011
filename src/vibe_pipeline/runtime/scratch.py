"""The folder for temporary files: one that can be written, with a path short enough for the sockets of processes."""

import logging
import os
import shutil
import socket
import tempfile
from pathlib import Path

log = logging.getLogger(__name__)

SHORT = ("/tmp", "/var/tmp", "/usr/tmp")


def settle_scratch() -> Path:
    """Choose the folder for temporary files of this process and its children; says so if it is not what TMPDIR names.

    Processes side by side talk over sockets in it, whose whole path the system limits to about 100 characters. Python
    before 3.14 fails in the middle of the start where TMPDIR is too long; later ones take a short folder, as here.

    Raises:
        OSError: There is none; says what to set.
    """
    wished = os.environ.get("TMPDIR", "")
    try:
        used = Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        raise OSError(f"no temporary files can be written ({error}): set TMPDIR to a folder with free space") from error
    if wished and used != Path(wished).absolute():
        log.warning("TMPDIR: %s cannot be written, is not there or its disk is full; %s is used", wished, used)
    if _takes_sockets(used):
        return used
    short = next((Path(p) for p in SHORT if _takes_sockets(Path(p))), None)
    if short is None:
        raise OSError(
            f"TMPDIR: {used} takes no sockets of processes ({len(str(used))} characters are too many, or its file "
            f"system has none), nor does any of {', '.join(SHORT)}: set TMPDIR to a short path on a local disk"
        )
    log.warning(
        "TMPDIR: %s takes no sockets of processes (%d characters are too many, or a file system without); %s is used",
        used, len(str(used)), short,
    )  # fmt: skip
    os.environ["TMPDIR"] = tempfile.tempdir = str(short)
    return short


def _takes_sockets(folder: Path) -> bool:
    """Whether a socket can be made there, with names as long as those of Python's multiprocessing."""
    try:
        inner = Path(tempfile.mkdtemp(prefix="pymp-", dir=folder))
    except OSError:
        return False
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.bind(str(inner / "listener-12345678"))
    except OSError:
        return False
    else:
        return True
    finally:
        shutil.rmtree(inner, ignore_errors=True)
