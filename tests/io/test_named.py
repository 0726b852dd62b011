"""Files and folders that parameters name: each wrong kind is one line that names field and path."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from vibe_pipeline.io.named import require_file, require_folder, require_no_file

LONG = Path("n" * 300)


@pytest.fixture
def there(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("x")
    (tmp_path / "dead").symlink_to(tmp_path / "gone")
    (tmp_path / "round").symlink_to(tmp_path / "round")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


def test_what_is_right_is_given_back(there: Path) -> None:
    assert require_file(there / "file", "x") == there / "file"
    assert require_folder(there, "x") == there
    require_no_file(there, "x")
    require_no_file(there / "not yet", "x")


@pytest.mark.parametrize(
    ("call", "name", "said"),
    [
        (require_file, "", "is a folder, not a file"),
        (require_file, "none", "does not exist"),
        (require_file, "file/below", "does not exist"),
        (require_file, "dead", "a link to something that is gone"),
        (require_file, "round", "cannot be a path"),
        (require_file, "pipe", "is a pipe or device, not a file"),
        (require_file, str(LONG), "cannot be a path"),
        (require_file, "nul\0", "cannot be a path"),
        (require_folder, "file", "is a file, not a folder"),
        (require_folder, "none", "does not exist"),
        (require_folder, str(LONG), "cannot be a path"),
        (require_no_file, "file", "is a file, not a folder"),
        (require_no_file, str(LONG), "cannot be a path"),
    ],
)
def test_what_is_wrong_is_one_line(there: Path, call: Callable, name: str, said: str) -> None:
    with pytest.raises((ValueError, OSError)) as error:
        call(there / name, "data.path")
    message = str(error.value)
    assert message.startswith("data.path: ") and said in message and "\n" not in message and len(message) < 300


@pytest.mark.parametrize("call", [require_file, require_folder])
def test_what_may_not_be_read(there: Path, monkeypatch: pytest.MonkeyPatch, call: Callable) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root, as tests often run, may read everything
    with pytest.raises(PermissionError, match=r"data\.path: .* may not be read by this user"):
        call(there / "file" if call is require_file else there, "data.path")
