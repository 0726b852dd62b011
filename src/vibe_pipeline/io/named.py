"""Files and folders that parameters name: there, of the right kind, readable; or one line that says what they are."""

import os
import stat
from pathlib import Path

from vibe_pipeline.io.errors import one_line


def require_file(path: Path, field: str, hint: str = "") -> Path:
    """The path, where it is a file that can be read.

    Args:
        path: As the parameters have it.
        field: Its dotted name, for the message.
        hint: What to give, for the message.

    Raises:
        FileNotFoundError: There is nothing.
        ValueError: A folder, a device, a name that no file can have.
        PermissionError: It may not be read.
    """
    mode = _mode(path, field, hint)
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or device"
        raise ValueError(f"{field}: {one_line(path)} is {kind}, not a file{hint and '; ' + hint}")
    return _readable(path, field, os.R_OK)


def require_folder(path: Path, field: str, hint: str = "") -> Path:
    """The path, where it is a folder that can be listed.

    Raises:
        FileNotFoundError: There is nothing.
        ValueError: A file, a name that no folder can have.
        PermissionError: It may not be listed.
    """
    if not stat.S_ISDIR(_mode(path, field, hint)):
        raise ValueError(f"{field}: {one_line(path)} is a file, not a folder{hint and '; ' + hint}")
    return _readable(path, field, os.R_OK | os.X_OK)


def require_no_file(path: Path, field: str) -> None:
    """Refuse a folder that will be made, or is there, where that cannot be: a file has its name, for example.

    Raises:
        ValueError: As :func:`require_folder`.
        PermissionError: It may not be listed.
    """
    try:
        require_folder(path, field)
    except FileNotFoundError:
        return


def _mode(path: Path, field: str, hint: str) -> int:
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        link = " (a link to something that is gone)" if os.path.lexists(path) else ""
        raise FileNotFoundError(f"{field}: {one_line(path)} does not exist{link}{hint and '; ' + hint}") from error
    except PermissionError as error:
        raise PermissionError(
            f"{field}: {one_line(path)} lies in a folder that may not be read by this user"
        ) from error
    except (OSError, ValueError) as error:  # names too long, null bytes, looping links
        raise ValueError(
            f"{field}: {one_line(ascii(str(path)), 80)} cannot be a path: {one_line(error, 60)}"
        ) from error


def _readable(path: Path, field: str, wanted: int) -> Path:
    if not os.access(path, wanted):
        raise PermissionError(f"{field}: {one_line(path)} may not be read by this user; change its permissions")
    return path
