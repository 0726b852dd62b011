"""What every table of malformed input is held to."""

import hashlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

LONGEST = 600


def listing(folder: Path) -> dict[str, str]:
    """Every file of a folder with the hash of its content."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """What must not be there afterwards."""
    return tmp_path / "executed"


@pytest.fixture
def bomb(marker: Path) -> Bomb:
    """An object whose pickle runs code; proven to."""
    pickle.loads(pickle.dumps(Bomb(marker)))
    assert marker.is_dir()
    marker.rmdir()
    return Bomb(marker)


@pytest.fixture
def refused(tmp_path: Path, marker: Path) -> Callable[..., str]:
    """Call something that must refuse its input: one line that names what is given, and nothing else has changed."""

    def check(call: Callable[[], object], *named: str) -> str:
        before = listing(tmp_path)
        with pytest.raises((ValueError, OSError)) as caught:
            call()
        message = str(caught.value)
        assert message and "\n" not in message and len(message) < LONGEST, message
        assert all(name in message for name in named), f"{named} not all in: {message}"
        assert listing(tmp_path) == before
        assert not marker.exists(), "code in the file was run"
        return message

    return check


@pytest.fixture
def unchanged(tmp_path: Path) -> Callable[..., object]:
    """Call something that redoes its own work: every other file is as it was."""

    def check(call: Callable[[], object], *redone: Path) -> object:
        own = {str(path.relative_to(tmp_path)) for path in redone}
        before = listing(tmp_path)
        result = call()
        after = listing(tmp_path)
        assert {k: v for k, v in before.items() if k not in own} == {k: after.get(k) for k in before if k not in own}
        return result

    return check
