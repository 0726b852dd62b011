"""A run while it goes on: one line for every finished node, and one redrawn line for what is being done.

Processes tell how far they are by small files in the run's folder, which lies with the data, where every machine of a
cluster sees it. The process that leads reads them. Where standard error is not a terminal there is no redrawn line,
but the same text as a message now and then, so that a log shows that the run lives.
"""

import json
import logging
import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vibe_pipeline.io.files import process_lives
from vibe_pipeline.runtime.progress import LIVE, live_folder
from vibe_pipeline.runtime.remaining import Left, Seen, time_left
from vibe_pipeline.runtime.terminal import show

log = logging.getLogger(__name__)

REDRAW = 0.5  # seconds
SILENCE = 60.0  # seconds without a message, after which a log that is not a terminal gets one
FOLDER = ".live"


def node_begins(name: str) -> None:
    """A node starts in this process."""
    _tell(name, {"state": "running", "begun": time.time(), "pid": os.getpid()})


def node_ends(name: str) -> None:
    """A node that began in this process has done its work."""
    folder = live_folder()
    begun = (
        next((node["begun"] for node in _read(folder, f"node-{name}.") if "begun" in node), None) if folder else None
    )
    _tell(name, {"state": "done", "seconds": time.time() - (begun or time.time())})


def node_fails(name: str) -> None:
    """A node raised an error."""
    _tell(name, {"state": "failed"})


def _tell(name: str, state: Mapping[str, Any]) -> None:
    folder = live_folder()
    if folder is None:
        return
    file = folder / f"node-{name}.json"
    unfinished = file.with_suffix(".partial")
    with suppress(OSError):  # a node is worth more than the line about it
        unfinished.write_text(json.dumps({"name": name, **state}))
        unfinished.replace(file)


@dataclass(frozen=True)
class Graph:
    """What is to be run.

    Attributes:
        parents: By the name of each node, those that it needs.
        at_once: How many nodes can run side by side.
    """

    parents: Mapping[str, frozenset[str]]
    at_once: int = 1


class LiveRun:
    """Shows a run from its first node to its last; made and closed by the process that leads."""

    def __init__(self, data: Path, graph: Graph) -> None:
        self._graph, self._said, self._spoken = graph, set[str](), time.monotonic()
        self._folder = (data / FOLDER / f"{socket.gethostname()}-{os.getpid()}").absolute()
        _remove_abandoned(self._folder.parent)
        self._folder.mkdir(parents=True, exist_ok=True)
        os.environ[LIVE] = str(self._folder)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="live", daemon=True)
        self._thread.start()

    def close(self) -> str:
        """Say what is not said yet and take the line away; returns the name of a node that failed, or ''."""
        if self._closed.is_set():
            return ""
        self._closed.set()
        self._thread.join(timeout=5)
        self._look(last=True)
        failed = [node["name"] for node in _read(self._folder, "node-") if node["state"] == "failed"]
        os.environ.pop(LIVE, None)
        shutil.rmtree(self._folder, ignore_errors=True)
        with suppress(OSError):
            self._folder.parent.rmdir()  # unless another shard of the run is at work
        return failed[0] if failed else ""

    def _watch(self) -> None:
        while not self._closed.wait(REDRAW):
            self._look()

    def _look(self, last: bool = False) -> None:
        nodes, bars = _read(self._folder, "node-"), _read(self._folder, "bar-")
        seen = seen_of(nodes, bars)
        left = time_left(self._graph.parents, self._graph.at_once, seen)
        new = [node for node in nodes if node["state"] == "done" and node["name"] not in self._said]
        for node in sorted(new, key=lambda node: node["ended"]):
            self._said.add(node["name"])
            log.info("%s", self._line(node, left if node is new[-1] else None))
            self._spoken = time.monotonic()
        if sys.stderr.isatty():
            show("" if last else fitting(self._status(nodes, bars, left), shutil.get_terminal_size().columns), end="")
        elif not last and time.monotonic() - self._spoken > SILENCE:
            log.info("%s", self._status(nodes, bars, left))
            self._spoken = time.monotonic()

    def _line(self, node: Mapping[str, Any], left: Left | None) -> str:
        total, done = len(self._graph.parents), len(self._said)
        took = f"{node['name']:34} {spoken(node['seconds']):>8}"
        return f"{done:{len(str(total))}} of {total}  {took}{f'   {left}' if left and str(left) else ''}"

    def _status(self, nodes: Sequence[Mapping[str, Any]], bars: Sequence[Mapping[str, Any]], left: Left) -> str:
        told = {bar["pid"] for bar in bars}
        running = [node["name"] for node in nodes if node["state"] == "running" and node["pid"] not in told]
        parts = [f"{len(self._said)} of {len(self._graph.parents)}", str(left), *map(bar_words, bars), *running]
        return "  " + " · ".join(filter(None, parts))


def seen_of(nodes: Sequence[Mapping[str, Any]], bars: Sequence[Mapping[str, Any]]) -> Seen:
    """What nodes took or, as far as their bars tell, will take; the first bar of a process is its node's."""
    now = time.time()
    done = {node["name"]: float(node["seconds"]) for node in nodes if node["state"] == "done"}
    spent, whole = {}, {}
    first = {bar["pid"]: bar for bar in sorted(bars, key=lambda bar: bar["begun"], reverse=True)}
    for node in (node for node in nodes if node["state"] == "running"):
        name, spent[node["name"]] = node["name"], now - node["begun"]
        bar = first.get(node["pid"])
        if bar and (rest := bar_seconds_left(bar, now)) is not None:
            whole[name] = spent[name] + rest
    return Seen(done, spent, whole)


def bar_seconds_left(bar: Mapping[str, Any], now: float) -> float | None:
    """By the speed up to its last word; None where nothing is done yet or the end is not known."""
    done = bar["n"] - bar["initial"]
    if not bar["total"] or done <= 0:
        return None
    rest = (bar["total"] - bar["n"]) * (bar["at"] - bar["begun"]) / done
    return max(0.0, rest - (now - bar["at"]))


def bar_words(bar: Mapping[str, Any]) -> str:
    """`full 212 of 600 steps, loss 0.03, 1.2 min`."""
    end = f" of {bar['total']}" if bar["total"] else ""
    rest = bar_seconds_left(bar, time.time())
    parts = [f"{bar['desc']} {bar['n']}{end} {bar['unit']}s", bar.get("note", ""), spoken(rest) if rest else ""]
    return ", ".join(filter(None, parts))


def spoken(seconds: float) -> str:
    """`0.4 s`, `23 s`, `4 min`, `2.5 h`."""
    for limit, divisor, unit in ((9.95, 1, "s"), (99.5, 1, "s"), (5970, 60, "min"), (float("inf"), 3600, "h")):
        if seconds < limit:
            value = seconds / divisor
            return f"{value:.0f} {unit}" if value >= 9.95 else f"{value:.1f} {unit}"
    raise ValueError(f"{seconds} seconds cannot be said")


def fitting(text: str, width: int) -> str:
    """A text cut so that it does not break onto a second line, which could not be redrawn."""
    return text if len(text) < width else f"{text[: max(0, width - 2)]}…"


def _read(folder: Path, kind: str) -> list[dict[str, Any]]:
    """The files of a kind; one that is being written, or is gone again, is left for the next look."""
    found = []
    for file in sorted(folder.glob(f"{kind}*json")):
        with suppress(OSError, ValueError):
            found.append(json.loads(file.read_text()) | {"ended": file.stat().st_mtime})
    return found


def _remove_abandoned(folder: Path) -> None:
    """What runs of this machine left that were killed outright."""
    here = f"{socket.gethostname()}-"
    for old in folder.glob(f"{here}*"):
        pid = old.name.removeprefix(here)
        if pid.isdecimal() and not process_lives(int(pid)):
            shutil.rmtree(old, ignore_errors=True)
