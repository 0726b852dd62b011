"""Checkpoints that survive a kill at any moment and damage since.

A new one is written and synced under a temporary name; the old one becomes the previous one; then the new one takes
its place. Whatever happens, one whole checkpoint is there.
"""

import logging
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from vibe_pipeline.io.errors import one_line
from vibe_pipeline.io.files import write_atomic

log = logging.getLogger(__name__)

NAME, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"


def save_checkpoint(state: dict[str, Any], folder: Path) -> None:
    """Write `checkpoint.pt`, keeping the one before as `checkpoint.previous.pt`."""
    path = folder / NAME

    def write(temporary: Path) -> None:
        with temporary.open("wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
        if path.exists():
            path.replace(folder / PREVIOUS)

    write_atomic(path, write)


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The newest whole checkpoint, tensors on the CPU; None if there is none.

    Raises:
        ValueError: Every checkpoint there is damaged.
    """
    found = [folder / name for name in (NAME, PREVIOUS) if (folder / name).exists()]
    errors = []
    for path in found:
        try:
            return _read(path)
        except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
            errors.append(f"{path} is damaged ({one_line(error, 120)})")
            log.warning("%s; trying the checkpoint before it", errors[-1])
    if errors:
        raise ValueError(f"{'; '.join(errors)}; delete it and run again: training starts over")
    return None


def remove_checkpoints(folder: Path) -> None:
    """Once the adapter is saved they only take room."""
    for name in (NAME, PREVIOUS):
        (folder / name).unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any]:
    """torch checks no sums of its own, but its files are zip archives, which carry them."""
    with zipfile.ZipFile(path) as archive:
        if (bad := archive.testzip()) is not None:
            raise ValueError(f"wrong checksum of {bad}")
    # Refuses all but tensors and plain values: nothing in the file is run.
    state = torch.load(path, weights_only=True, map_location="cpu")
    step = state.get("step") if isinstance(state, dict) else None
    if type(step) is not int or step < 0:  # True is an int too
        raise ValueError(f"no checkpoint: its step is {one_line(repr(step), 60)}")
    return state
