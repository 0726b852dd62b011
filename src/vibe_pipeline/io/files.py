"""Files that are whole once they are there: written under a temporary name, then renamed."""

import hashlib
import json
import os
import secrets
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any


def is_file(path: Path) -> bool:
    """Whether there is such a file; a name that no file can have, as one over 255 bytes, names none.

    Raises:
        PermissionError: The folder cannot be looked into.
    """
    return _answered(path.is_file)


def is_folder(path: Path) -> bool:
    """Whether there is such a folder; as :func:`is_file`."""
    return _answered(path.is_dir)


def _answered(ask: Callable[[], bool]) -> bool:
    try:
        return ask()
    except PermissionError:
        raise
    except (OSError, ValueError):  # pathlib answers only for names that the file system takes
        return False


def write_atomic(path: Path, write: Callable[[Path], object]) -> Path:
    """Call `write` with a temporary path of the same suffix beside `path`, then rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Host and a random part too: on a shared file system two machines may write the same name at once.
    temporary = path.with_name(f".{os.getpid()}-{_host()}-{secrets.token_hex(3)}.{path.name}")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def remove_abandoned(folder: Path, suffix: str) -> None:
    """Remove what killed processes of this machine left half written by :func:`write_atomic`."""
    for path in folder.glob(f".*{suffix}"):
        writer = path.name.split(".")[1].split("-")
        if len(writer) == 3 and writer[1] == _host() and not process_lives(int(writer[0])):
            path.unlink(missing_ok=True)


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]


def process_lives(pid: int) -> bool:
    """Whether a process of this machine is there."""
    try:
        os.kill(pid, 0)  # asks only
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def write_json(path: Path, content: Any) -> Path:
    """Write JSON, indented, atomically."""
    return write_atomic(path, lambda p: p.write_text(json.dumps(content, indent=1, default=str) + "\n"))


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        ValueError: The file is damaged; the message says to delete it.
    """
    try:
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it and run again: it will be made again") from error


def free_bytes(folder: Path) -> int:
    """Free on the disk that a folder lies on, or will lie on once it is made."""
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    return shutil.disk_usage(there).free


def require_space(folder: Path, needed: int) -> None:
    """Refuse to start a job whose files would not fit.

    Raises:
        OSError: Fewer than `needed` bytes are free.
    """
    folder.mkdir(parents=True, exist_ok=True)
    free = free_bytes(folder)
    if free < needed:
        raise OSError(
            f"{folder} has {free / 1e9:.2f} GB free, {needed / 1e9:.2f} GB are needed; free some, or set this folder "
            "in globals.yml to a larger disk"
        )


def link_by_name(link: Path, folder: Path) -> None:
    """Let people find by a row's name what is kept by content; relative, so that a moved project keeps it.

    Where a copy of the project made folders of its links, they stay as they are.
    """
    if link.is_dir() and not link.is_symlink():
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    new = link.with_name(f".{link.name}.{secrets.token_hex(3)}")
    new.symlink_to(os.path.relpath(folder, link.parent))
    new.replace(link)
