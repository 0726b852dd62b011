"""The system's Chromium, driven by Playwright, for tests of pages that programs of others serve."""

import random
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
SECONDS = 240
"""How long a server or a page may take on a machine that does other things too."""


@contextmanager
def opened_page(width: int = 1440, height: int = 1000) -> Iterator["Page"]:
    """An empty page."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*QUIET, "--disable-sync"])
        context = browser.new_context(viewport={"width": width, "height": height})
        context.set_default_timeout(1000 * SECONDS)  # for pages that a page opens, too
        yield context.new_page()
        browser.close()


def free_port() -> int:
    """A port that nothing listens at; below those that the system hands out, which Kedro-Viz refuses."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)) != 0:
                return port


@contextmanager
def served(command: list[str], folder: Path, port: int, environment: dict[str, str]) -> Iterator[str]:
    """A server while it is used; its address."""
    log, address = folder / "server.log", f"http://127.0.0.1:{port}"
    with log.open("w") as stream:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=stream, stderr=stream)
    try:
        end = time.monotonic() + SECONDS
        while not _answers(address):
            assert process.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.3)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=30)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False
