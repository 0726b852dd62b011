"""Running VBench's own code on clips of any prompts, offline, one long table out.

Nothing of VBench is rewritten: clips are staged as links with unique names, `VBench.evaluate` is called in its
`custom_input` mode, and its per-clip results are mapped back. What it would do silently (fetch weights, drop a
clip, average a NaN) is decided before or read off afterwards.
"""

import contextlib
import hashlib
import importlib.metadata
import io
import json
import logging
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from vibe_pipeline.evaluation.clips import WHOLE_ARM, check_clip_table, score_table, unreadable
from vibe_pipeline.evaluation.dimensions import DINO_CHECKPOINT, Dimension, Skipped, dimension_of, readiness

logger = logging.getLogger(__name__)

MODE = "custom_input"
LONG_SECONDS = 5.0  # from here on VBench's authors ask for VBench-Long
# A closed local port: if anything tries to fetch despite the checks, it fails at once instead of downloading.
_NOWHERE = "http://127.0.0.1:9"


class NothingScoredError(RuntimeError):
    """None of the requested dimensions gave a single score."""


@dataclass(frozen=True)
class _Workplace:
    """Where one call of VBench finds its weights and clips, and leaves its result files."""

    cache_dir: Path
    work_dir: Path
    staged: Path
    device: str


def score_vbench(
    clips: pd.DataFrame,
    dimensions: Sequence[str],
    cache_dir: Path,
    work_dir: Path,
    device: str = "cpu",
    require_any: bool = True,
) -> pd.DataFrame:
    """Score clips with the VBench dimensions that are ready here.

    Args:
        clips: One row a clip: arm, prompt_index, prompt, seed, path (mp4), fps, frames, height, width.
        dimensions: Names out of VBench's 16; repeated ones are scored once.
        cache_dir: VBench's folder of weights; only read.
        work_dir: Where VBench's own result files go, made if needed; one call at a time.
        device: What torch calls the device.
        require_any: Raise if nothing was scored.

    Returns:
        Columns arm, prompt_index, seed, metric, value, direction, family, status, reason. A scored or failed clip
        has its own row; a skipped or failed dimension has one row per arm, with prompt_index and seed -1. Values
        are on the scale of VBench's totals (0 to 1, cosines from -1); they are NaN unless status is "scored".

    Raises:
        ValueError: The clip table or a dimension's name is wrong.
        NothingScoredError: `require_any`, and no clip got a score in any dimension; the message lists the reasons.
    """
    check_clip_table(clips)
    names = list(dict.fromkeys(dimension_of(name).name for name in dimensions))
    if not names:
        raise ValueError("no VBench dimensions are asked for: name at least one")
    table = score_table(_all_rows(clips, names, Path(cache_dir).resolve(), Path(work_dir).resolve(), device))
    if require_any:
        _require_a_score(table)
    return table


def _all_rows(
    clips: pd.DataFrame, names: Sequence[str], cache_dir: Path, work_dir: Path, device: str
) -> list[dict[str, object]]:
    """Rows of every dimension, in the order asked for."""
    work_dir.mkdir(parents=True, exist_ok=True)
    states = {name: readiness(name, cache_dir) for name in names}
    any_ready = any(not isinstance(state, Skipped) for state in states.values())
    broken = unreadable(clips) if any_ready else {}
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(prefix="staged_", dir=work_dir) as staged:
        place = _Workplace(cache_dir, work_dir, Path(staged), device)
        staged_names = _stage(clips, broken, place.staged)
        for name, state in states.items():
            if isinstance(state, Skipped):
                logger.warning("VBench %s: %s", name, state.reason)
                rows += _arm_rows(clips, name, "skipped", state.reason)
            else:
                rows += _dimension_rows(clips, name, broken, staged_names, place)
    return rows


def vbench_manifest(clips: pd.DataFrame, dimensions: Sequence[str]) -> dict[str, Any]:
    """What must be stated beside VBench scores for them to be reproducible.

    Args:
        clips: As for :func:`score_vbench`.
        dimensions: Names out of VBench's 16.

    Returns:
        JSON-ready: VBench's version and mode, per dimension what it sees, the number and hash of the prompts (in
        order, as generated from), seeds, arms, every fps, frame count and size that occurs, the longest duration in
        seconds, and `vbench_long`: whether a clip lasts 5.0 s or more, where VBench-Long is the proper protocol.

    Raises:
        ValueError: The clip table or a dimension's name is wrong.
    """
    check_clip_table(clips)
    entries = [dimension_of(name) for name in dimensions]
    prompts = clips[["prompt_index", "prompt"]].drop_duplicates().sort_values(["prompt_index", "prompt"])
    listed = [[int(index), str(prompt)] for index, prompt in prompts.itertuples(index=False)]
    seconds = clips["frames"] / clips["fps"]
    sizes = clips[["height", "width"]].drop_duplicates().sort_values(["height", "width"])
    return {
        "vbench_version": _version(),
        "mode": MODE,
        "dimensions": {entry.name: entry.sees for entry in entries},
        "prompt_count": len(listed),
        "prompts_sha256": hashlib.sha256(json.dumps(listed, ensure_ascii=False).encode()).hexdigest(),
        "seeds": sorted(int(seed) for seed in clips["seed"].unique()),
        "arms": sorted(str(arm) for arm in clips["arm"].unique()),
        "fps": sorted(float(fps) for fps in clips["fps"].unique()),
        "frames": sorted(int(frames) for frames in clips["frames"].unique()),
        "sizes": [[int(height), int(width)] for height, width in sizes.itertuples(index=False)],
        "longest_seconds": float(seconds.max()),
        "vbench_long": bool((seconds >= LONG_SECONDS).any()),
        "vbench_long_arms": sorted(str(arm) for arm in clips.loc[seconds >= LONG_SECONDS, "arm"].unique()),
    }


def _require_a_score(table: pd.DataFrame) -> None:
    if (table["status"] == "scored").any():
        return
    reasons = table.groupby("metric", sort=False)["reason"].first()
    listed = "; ".join(f"{metric}: {reason}" for metric, reason in reasons.items())
    raise NothingScoredError(f"none of the requested VBench dimensions could be scored: {listed}")


def _version() -> str | None:
    try:
        return importlib.metadata.version("vbench")
    except importlib.metadata.PackageNotFoundError:
        return None


def _stage(clips: pd.DataFrame, broken: Mapping[int, str], folder: Path) -> dict[int, str]:
    """Link every readable clip into the folder; position in the table to the name it got."""
    names = {i: f"clip_{i:06d}.mp4" for i in range(len(clips)) if i not in broken}
    for position, name in names.items():
        source = Path(clips["path"].iloc[position]).resolve()
        try:
            (folder / name).symlink_to(source)
        except OSError:  # a file system or an account without links
            shutil.copy2(source, folder / name)
    return names


def _dimension_rows(
    clips: pd.DataFrame, name: str, broken: Mapping[int, str], staged_names: Mapping[int, str], place: _Workplace
) -> list[dict[str, object]]:
    """Rows of one dimension that is ready: a row a clip, or a row an arm if its code raised."""
    prompts = {staged: str(clips["prompt"].iloc[position]) for position, staged in staged_names.items()}
    results: dict[str, float] = {}
    if prompts:
        try:
            results = _evaluate(dimension_of(name), prompts, place)
        except Exception as error:  # whatever VBench or a model raises: the other dimensions go on
            logger.exception("VBench %s failed", name)
            said = ": ".join([type(error).__name__, *str(error).splitlines()[:1]])
            return _arm_rows(clips, name, "failed", f"failed, because VBench raised {said}")
    rows = []
    for position, clip in enumerate(clips.itertuples(index=False)):
        value = results.get(staged_names.get(position, ""), math.nan)
        reason = broken.get(position, "")
        if not reason and not math.isfinite(value):
            gave = f"the score {value}" if staged_names[position] in results else "no score"
            reason = f"VBench gave {gave} for {clip.path}"
        status = "failed" if reason else "scored"
        rows.append(_row(clip.arm, clip.prompt_index, clip.seed, name, math.nan if reason else value, status, reason))
    return rows


def _evaluate(entry: Dimension, prompts: Mapping[str, str], place: _Workplace) -> dict[str, float]:
    """One dimension of VBench over the staged folder: staged name to score."""
    with _offline(place), _quiet():
        import torch
        import vbench

        _point_to_cache(place.cache_dir)
        full_info = str(Path(vbench.__file__).with_name("VBench_full_info.json"))
        bench = vbench.VBench(torch.device(place.device), full_info, str(place.work_dir))
        # local: the CLIP and DINO weights are then taken from the cache folder, and not from the home folder.
        bench.evaluate(
            str(place.staged), entry.name, prompt_list=dict(prompts), dimension_list=[entry.name], local=True, mode=MODE
        )
    written = json.loads((place.work_dir / f"{entry.name}_eval_results.json").read_text(encoding="utf-8"))
    return {Path(r["video_path"]).name: float(r["video_results"]) * entry.clip_scale for r in written[entry.name][1]}


def _point_to_cache(cache_dir: Path) -> None:
    """VBench reads the cache folder at import and copies it between modules: set it wherever it already is."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "vbench" and hasattr(module, "CACHE_DIR"):
            module.CACHE_DIR = str(cache_dir)


@contextlib.contextmanager
def _offline(place: _Workplace) -> Iterator[None]:
    """Environment in which VBench looks only at the cache folder, put back afterwards."""
    torch_home = place.work_dir / "torch_home"
    dino = place.cache_dir / DINO_CHECKPOINT
    link = torch_home / "hub" / "checkpoints" / dino.name
    if dino.is_file():  # DINO's own hub code asks for this place, whatever path VBench passes to it
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(dino)
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), _NOWHERE)
    offline = {"VBENCH_CACHE_DIR": str(place.cache_dir), "TORCH_HOME": str(torch_home), "HF_HUB_OFFLINE": "1"}
    local_only = dict.fromkeys(("no_proxy", "NO_PROXY"), "localhost,127.0.0.1")
    changes = offline | proxies | local_only | {"TRANSFORMERS_OFFLINE": "1"}
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
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
        for line in text.replace("\r", "\n").splitlines():
            if line.strip():
                logger.debug("vbench: %s", line.rstrip())
        return len(text)


def _arm_rows(clips: pd.DataFrame, name: str, status: str, reason: str) -> list[dict[str, object]]:
    """One row per arm for a dimension without scores."""
    return [_row(arm, WHOLE_ARM, WHOLE_ARM, name, math.nan, status, reason) for arm in clips["arm"].unique()]


def _row(
    arm: str, prompt_index: int, seed: int, metric: str, value: float, status: str, reason: str
) -> dict[str, object]:
    """A row of the score table; every VBench dimension is better when higher."""
    return {
        "arm": arm,
        "prompt_index": prompt_index,
        "seed": seed,
        "metric": metric,
        "value": value,
        "direction": "higher",
        "family": "vbench",
        "status": status,
        "reason": reason,
    }
