"""Checkpoints that survive a kill at any moment and damage since.

A new one is written and synced under a temporary name; the old one becomes the previous one; then the new one takes
its place. Whatever happens, one whole checkpoint is there.
"""

import json
import logging
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from vibe_pipeline.diffusion import lora
from vibe_pipeline.io.errors import one_line
from vibe_pipeline.io.files import write_atomic
from vibe_pipeline.training.job import TrainingState
from vibe_pipeline.training.throughput import Window

log = logging.getLogger(__name__)

NAME, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"
START_OVER = "delete it and run again: training starts over"


def save_checkpoint(state: dict[str, Any], folder: Path) -> None:
    """Write `checkpoint.pt`, keeping the one before as `checkpoint.previous.pt`."""
    path = folder / NAME

    def write(temporary: Path) -> None:
        """Down to the disk first, then move the one before aside: a power cut leaves one of the two whole."""
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
        raise ValueError(f"{'; '.join(errors)}; {START_OVER}")
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
        raise ValueError(f"not a checkpoint: its step is {one_line(repr(step), 60)}")
    return state


def save_state(state: TrainingState) -> None:
    """Keep what an exact resumption needs."""
    saved: dict[str, Any] = {
        "step": state.step,
        "adapter": lora.adapter_state(state.transformer, state.job.name),
        "ema": state.ema and state.ema.state_dict(),
        "optimiser": state.optimiser.state_dict(),
        "progress": json.dumps({"records": state.records, "window": state.window.state()}),
    }
    save_checkpoint(saved, state.job.folder)


def _require_own(state: TrainingState, saved: dict[str, Any]) -> None:
    """Refuse a checkpoint that is another adapter's: peft would load what fits and leave out the rest in silence."""
    job, place = state.job, state.job.folder / NAME
    if lacking := [name for name in ("adapter", "optimiser", "ema", "progress") if name not in saved]:
        raise ValueError(f"{place} lacks {', '.join(lacking)}; {START_OVER}")
    own = {name: tuple(value.shape) for name, value in lora.adapter_state(state.transformer, job.name).items()}
    adapter = saved["adapter"] if isinstance(saved["adapter"], dict) else {}
    there = {name: tuple(getattr(value, "shape", ())) for name, value in adapter.items()}
    if wrong := sorted((name for name in own.keys() | there.keys() if own.get(name) != there.get(name)), key=str):
        first = f"{one_line(wrong[0])} is {there.get(wrong[0])} there, {own.get(wrong[0])} here"
        raise ValueError(f"{place} is of another adapter: {first}, {len(wrong)} differ; {START_OVER}")


def _take_up(state: TrainingState, saved: dict[str, Any]) -> None:
    """Put a checkpoint's content in place."""

    def average(values: dict[str, Any]) -> None:
        if state.ema is not None:
            state.ema.load_state_dict(values)
            state.ema.to(state.group.device)

    def progress(text: str) -> None:
        kept = json.loads(text)
        state.records, state.window = kept["records"], Window(**kept["window"])

    lora.set_adapter_state(state.transformer, state.job.name, saved["adapter"])
    for name, take in (("optimiser", state.optimiser.load_state_dict), ("ema", average), ("progress", progress)):
        try:
            take(saved[name])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            said = f"{type(error).__name__}: {one_line(error)}"
            raise ValueError(f"{state.job.folder / NAME}: its {name} cannot be used ({said}); {START_OVER}") from error
    state.step = saved["step"]


def resume(state: TrainingState) -> None:
    """Go on from the checkpoint, if there is one; a new MLflow state gets the whole curve.

    Raises:
        ValueError: Every checkpoint is damaged or another adapter's, or the processes do not see the same one.
    """
    job, saved = state.job, load_checkpoint(state.job.folder)
    steps = state.group.gather(saved["step"] if saved else 0)
    if len(set(steps)) > 1:
        raise ValueError(f"processes see checkpoints of steps {steps}: {job.folder} must be a folder that all share")
    if saved is None:
        return
    _require_own(state, saved)
    _take_up(state, saved)
    log.info("%s resumes at step %d from %s", job.name, state.step, job.folder)
    if state.group.leads and state.records:
        state.on_log(state.records)
