"""One run at a time: refused, queued, side by side in shards, and free again after a kill."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from vibe_pipeline.runtime.project_lock import ProjectBusyError, lock_project, unlock

HOLD = (
    "import sys, time; from pathlib import Path; from vibe_pipeline.runtime.project_lock import lock_project\n"
    "kept = lock_project(Path(sys.argv[1]), sys.argv[2] or None); print('held', flush=True); time.sleep(600)"
)


def holder(folder: Path, shard: str = "") -> subprocess.Popen:
    """Another process that holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder), shard], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_run_is_refused_and_told_which_is_first(tmp_path: Path) -> None:
    first = holder(tmp_path)
    try:
        with pytest.raises(ProjectBusyError, match=rf"process {first.pid} on .*, since .*run\.wait=true"):
            lock_project(tmp_path)
        with pytest.raises(ProjectBusyError):
            lock_project(tmp_path, "1/2")
    finally:
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
    unlock(lock_project(tmp_path))


def test_a_waiting_run_goes_on_when_the_first_ends(tmp_path: Path) -> None:
    first, taken = holder(tmp_path), []
    thread = threading.Thread(target=lambda: taken.extend(lock_project(tmp_path, wait=True)))
    thread.start()
    time.sleep(0.3)
    assert not taken
    first.kill()
    first.wait()
    thread.join(120)
    assert len(taken) == 1
    unlock(taken)


def test_shards_run_side_by_side_but_not_the_same_one_nor_a_whole_run(tmp_path: Path) -> None:
    first = holder(tmp_path, "1/2")
    try:
        unlock(lock_project(tmp_path, "2/2"))
        for shard in ("1/2", None):
            with pytest.raises(ProjectBusyError):
                lock_project(tmp_path, shard)
        unlock(lock_project(tmp_path, "2/2"))
    finally:
        first.kill()
        first.wait()


def test_no_password_of_a_command_line_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["kedro", "run", "--params=tracking.uri=https://me:secret@host/x"])
    unlock(lock_project(tmp_path))
    written = (tmp_path / ".run.lock").read_text()
    assert "tracking.uri=https://***@host/x" in written
    assert "secret" not in written
