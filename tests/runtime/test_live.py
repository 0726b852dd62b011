"""A run's terminal: a line a node, one redrawn line for the rest, and never two of them on one line."""

import json
import logging
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vibe_pipeline.runtime import live
from vibe_pipeline.runtime.live import Graph, LiveRun, bar_words, fitting, node_begins, node_ends, node_fails, spoken
from vibe_pipeline.runtime.progress import LIVE, Progress, live_folder

SCRIPT = """
import logging, multiprocessing, sys, time
from pathlib import Path
from vibe_pipeline.runtime import live
from vibe_pipeline.runtime.progress import Progress
from vibe_pipeline.runtime.terminal import whole_lines

live.REDRAW = 0.005

def work(number):
    live.node_begins(f"arms.{number}.measure")
    for i in Progress(range(40), total=40, desc=f"row{number}", unit="clip"):
        logging.getLogger("vibe_pipeline").info("said %d-%02d %s", number, i, "x" * 30)
        time.sleep(0.01)
    live.node_ends(f"arms.{number}.measure")

logging.basicConfig(level=logging.INFO)
whole_lines()
run = live.LiveRun(Path(sys.argv[1]), live.Graph({f"arms.{i}.measure": frozenset() for i in range(3)}, 3))
processes = [multiprocessing.get_context("fork").Process(target=work, args=(i,)) for i in range(3)]
[p.start() for p in processes]
[p.join() for p in processes]
run.close()
"""


def on_a_terminal(folder: Path) -> str:
    """What three processes of one run write to one terminal."""
    leader, follower = pty.openpty()
    command = [sys.executable, "-c", SCRIPT, str(folder)]
    with subprocess.Popen(command, stdout=follower, stderr=follower, stdin=follower) as child:
        os.close(follower)
        said = b""
        while True:
            try:
                piece = os.read(leader, 65536)
            except OSError:  # the last writer closed it
                break
            said += piece
    os.close(leader)
    assert child.returncode == 0, said.decode()
    return said.decode()


def test_messages_of_all_processes_and_the_redrawn_line_never_share_a_line(tmp_path: Path) -> None:
    said = on_a_terminal(tmp_path)
    lines = [line.rpartition("\x1b[K")[2] for line in said.replace("\r\n", "\n").split("\n")]
    messages = [line for line in lines if "said " in line]
    assert len(messages) == 120
    assert all(line.endswith("x" * 30) and line.count("INFO") == 1 and "·" not in line for line in messages)
    assert sum("of 3  arms." in line for line in lines) == 3
    assert "row1" in said and " of 40 clips" in said  # the redrawn line was there
    assert lines[-1].strip() == ""  # and is gone
    assert not list(tmp_path.rglob("*.json"))


@pytest.fixture
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> LiveRun:
    monkeypatch.setattr(live, "REDRAW", 0.01)
    caplog.set_level(logging.INFO)
    parents = {"arms.a.measure": frozenset(), "arms.b.measure": frozenset()}
    return LiveRun(tmp_path, Graph(parents))


def test_every_node_gets_one_line_with_what_is_left(shown: LiveRun, caplog, monkeypatch) -> None:
    node_begins("arms.a.measure")
    later = time.time() + 300
    monkeypatch.setattr(time, "time", lambda: later)
    node_ends("arms.a.measure")
    assert shown.close() == ""
    (message,) = caplog.messages
    assert message.startswith("1 of 2  arms.a.measure") and message.endswith("5.0 min   about 5 min left")


def test_a_node_that_failed_is_named_and_nothing_stays(shown: LiveRun, tmp_path: Path) -> None:
    node_fails("arms.b.measure")
    assert shown.close() == "arms.b.measure"
    assert live_folder() is None and not list(tmp_path.iterdir())
    assert shown.close() == ""


def test_a_log_that_is_not_a_terminal_hears_of_long_work(shown: LiveRun, caplog, monkeypatch) -> None:
    monkeypatch.setattr(live, "SILENCE", 0.05)
    node_begins("arms.a.measure")
    time.sleep(0.3)
    shown.close()
    assert any("0 of 2" in message and "arms.a.measure" in message for message in caplog.messages)


def test_what_a_killed_run_left_goes_with_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    monkeypatch.setattr(live.socket, "gethostname", lambda: "here")
    for name in (f"here-{dead.pid}", f"there-{dead.pid}"):
        (tmp_path / live.FOLDER / name).mkdir(parents=True)
    LiveRun(tmp_path, Graph({})).close()
    assert [p.name for p in (tmp_path / live.FOLDER).iterdir()] == [f"there-{dead.pid}"]


def test_a_bar_is_a_file_while_a_run_shows_and_tqdms_own_otherwise(tmp_path: Path, monkeypatch, capsys) -> None:
    assert list(Progress([1, 2], total=2, desc="alone")) == [1, 2]
    assert "alone" in capsys.readouterr().err
    monkeypatch.setenv(LIVE, str(tmp_path))
    with Progress[None](total=4, desc="full", initial=1) as bar:
        bar.set_postfix(loss="0.1")
        bar.update()
        (file,) = tmp_path.iterdir()
        told = json.loads(file.read_text())
    assert told["n"] == 2 and told["total"] == 4 and told["note"] == "loss 0.1"
    assert not list(tmp_path.iterdir()) and capsys.readouterr().err == ""
    with Progress[None](total=4, hidden=True) as bar:
        bar.update()
        assert not list(tmp_path.iterdir())


def test_a_bar_in_words() -> None:
    now = time.time()
    bar = {"desc": "full", "unit": "step", "n": 6, "initial": 2, "total": 10, "begun": now - 8, "at": now}
    assert bar_words(bar | {"note": "loss 0.1"}) == "full 6 of 10 steps, loss 0.1, 8.0 s"
    assert bar_words(bar | {"total": None}) == "full 6 steps"
    assert [spoken(s) for s in (0.44, 9.96, 99, 300, 9000)] == ["0.4 s", "10 s", "99 s", "5.0 min", "2.5 h"]
    assert fitting("a" * 50, 20) == "a" * 18 + "…" and fitting("short", 20) == "short"
