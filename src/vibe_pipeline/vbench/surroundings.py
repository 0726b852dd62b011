"""Where VBench's code runs: offline, looking for weights only in the cache folder, printing nothing.

Runs in both environments: it needs only the standard library.
"""

import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from vibe_pipeline.vbench.dimensions import HUB_FOLDER
from vibe_pipeline.vbench.weight_files import DINO_CHECKPOINT

logger = logging.getLogger(__name__)

# A closed local port: if anything tries to fetch despite the checks, it fails at once instead of downloading.
_NOWHERE = "http://127.0.0.1:9"


@contextlib.contextmanager
def offline(cache_dir: Path, work_dir: Path) -> Iterator[None]:
    """Environment in which VBench looks only at the cache folder, put back afterwards."""
    changes = _variables(cache_dir, _torch_home(cache_dir, work_dir))
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def _torch_home(cache_dir: Path, work_dir: Path) -> Path:
    """A folder for torch.hub: DINO's own hub code asks for this place, whatever path VBench passes to it."""
    home, dino = work_dir / "torch_home", cache_dir / DINO_CHECKPOINT
    link = home / "hub" / "checkpoints" / dino.name
    if dino.is_file() and not link.exists():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        with contextlib.suppress(FileExistsError):  # another worker was quicker
            link.symlink_to(dino)
    return home


def _variables(cache_dir: Path, torch_home: Path) -> dict[str, str]:
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), _NOWHERE)
    local_only = dict.fromkeys(("no_proxy", "NO_PROXY"), "localhost,127.0.0.1")
    no_fetching = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    places = {"VBENCH_CACHE_DIR": str(cache_dir), "TORCH_HOME": str(torch_home)}
    if (cache_dir / HUB_FOLDER).is_dir():
        # The second name is for older huggingface-hub, the third for the transformers of VBench's own pins.
        names = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE")
        places |= dict.fromkeys(names, str(cache_dir / HUB_FOLDER))
    return proxies | local_only | no_fetching | places


def point_to_cache(cache_dir: Path) -> None:
    """VBench reads the cache folder at import and copies it between modules: set it wherever it already is."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "vbench" and hasattr(module, "CACHE_DIR"):
            vars(module)["CACHE_DIR"] = str(cache_dir)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Send what VBench prints to our log, and undo the root logger it configures when imported."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    if not handlers:  # VBench's basicConfig does nothing where there already is a handler
        root.addHandler(logging.NullHandler())
    lines = _LogLines()
    try:
        with contextlib.redirect_stdout(lines), contextlib.redirect_stderr(lines):
            yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


class _LogLines(io.TextIOBase):
    """A text stream whose lines become debug records."""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        for line in text.replace("\r", "\n").split("\n"):
            if line.strip():
                logger.debug("vbench: %s", line.rstrip())
        return len(text)
