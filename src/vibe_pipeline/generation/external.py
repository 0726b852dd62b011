"""Another system's clips as an arm: found by prompt and sample, checked, and never altered.

Two layouts are read. VBench's: `PROMPT-INDEX.mp4`, where INDEX counts the samples of a prompt from 0. Or a table
`clips.csv` with the columns file, prompt and seed, files relative to it.
"""

import logging
import re
from pathlib import Path
from typing import Any

import pandas as pd

from vibe_pipeline.config import ArmParams, ModelParams
from vibe_pipeline.generation.clips import read_frames, write_preview
from vibe_pipeline.generation.decoding import ClipInfo, probe
from vibe_pipeline.generation.prompts import read_table
from vibe_pipeline.generation.store import Scale
from vibe_pipeline.identity import content_key, file_sha256
from vibe_pipeline.messages import brief

log = logging.getLogger(__name__)

TABLE = "clips.csv"
COLUMNS = ("file", "prompt", "seed")
SHOWN = 5
_SEED = re.compile(r"-?[0-9]{1,18}")


def external_clips(name: str, arm: ArmParams, prompts: pd.DataFrame, model: ModelParams, folder: Path) -> pd.DataFrame:
    """The clips of `arm.path` that answer the run's prompts.

    Args:
        name: Of the arm.
        arm: With `path`.
        prompts: The run's (prompt, seed) rows.
        model: Its target is the size, length and rate that every arm of a comparison has.
        folder: Gets small playable copies.

    Returns:
        One row a clip, as `arm_clips`; `seconds` is NaN: how long they took is not known. `notes` says what of a file
        is measured otherwise than a player shows it: uneven times, HDR, pixels that are not square.

    Raises:
        FileNotFoundError: No such folder, or clips are missing for some (prompt, seed).
        ValueError: A clip cannot be read, or has another size, length or rate than the target.
    """
    found = _listed(arm.path) if (arm.path / TABLE).is_file() else _named(arm.path, prompts)
    rows = prompts.to_dict("records")
    missing = [r for r in rows if (r["prompt"], r["seed"]) not in found]
    if missing:
        shown = "; ".join(f"{r['prompt'][:60]!r} seed {r['seed']}" for r in missing[:SHOWN])
        raise FileNotFoundError(
            f"arms.{name}: {arm.path} lacks {len(missing)} of {len(rows)} clips, among them {shown}. Name them "
            f"PROMPT-INDEX.mp4 (the index counts a prompt's seeds from 0) or list them in {arm.path / TABLE}"
        )
    size = Scale.of(model.target)
    clips = [_row(row, found[row["prompt"], row["seed"]], size, folder) for row in rows]
    if wrong := [c["problem"] for c in clips if c["problem"]]:
        raise ValueError(
            f"arms.{name}: {len(wrong)} of {len(clips)} clips differ from model.target, so {'; '.join(wrong[:SHOWN])}. "
            "Compare like with like: convert them losslessly, or set model.target to their size"
        )
    return pd.DataFrame(clips).drop(columns="problem").assign(arm=name, seconds=float("nan"))


def _listed(folder: Path) -> dict[tuple[str, int], Path]:
    path = folder / TABLE
    try:
        table = read_table(path).fillna("")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {brief(error)}") from error
    if lacking := [c for c in COLUMNS if c not in table]:
        raise ValueError(f"{path} has no column {', '.join(lacking)}; it needs {', '.join(COLUMNS)}")
    found: dict[tuple[str, int], Path] = {}
    for line, row in enumerate(table.to_dict("records"), 2):
        try:
            clip = (folder / row["file"]).resolve()
            there = clip.is_file()
        except (OSError, ValueError) as error:  # null bytes, names too long
            raise ValueError(
                f"{path}, line {line}: {brief(repr(row['file']))} is not a file name: {brief(error, 60)}"
            ) from error
        if not clip.is_relative_to(folder.resolve()):
            raise ValueError(f"{path}, line {line}: {brief(repr(row['file']))} leaves the folder")
        if not _SEED.fullmatch(row["seed"].strip()):
            raise ValueError(f"{path}, line {line}: seed {brief(repr(row['seed']), 60)} is not a whole number")
        key = (row["prompt"].strip(), int(row["seed"]))
        if key in found:
            raise ValueError(f"{path}, line {line}: {key[0][:60]!r} with seed {key[1]} is listed twice")
        if not there:
            raise FileNotFoundError(f"{path}, line {line}: there is no {brief(repr(row['file']))} in {folder}")
        found[key] = clip
    return found


def _named(folder: Path, prompts: pd.DataFrame) -> dict[tuple[str, int], Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; set the arm's path to the folder of clips")
    found = {}
    for prompt, rows in prompts.groupby("prompt", sort=False):
        for index, seed in enumerate(sorted(rows["seed"])):
            # A slash cannot stand in a file's name; VBench's own prompts have none.
            path = folder / f"{prompt.replace('/', '_')}-{index}.mp4"
            if path.is_file():
                found[prompt, seed] = path
    return found


def _row(row: dict[str, Any], path: Path, size: Scale, folder: Path) -> dict[str, Any]:
    sha256 = file_sha256(path)
    preview = folder / f"{row['prompt_index']:04d}-{row['seed']}-{sha256[:8]}.preview.mp4"
    actual = probe(path)
    if not preview.exists():
        write_preview(preview, read_frames(path), actual.fps)
    notes = "; ".join(actual.notes)
    if notes:
        log.warning("%s: %s", path, notes)
    placed = {"key": content_key("external", sha256), "path": str(path), "preview_path": str(preview), "notes": notes}
    scale = {"height": actual.height, "width": actual.width, "frames": actual.frames, "fps": actual.fps}
    return row | placed | scale | {"problem": _problem(path, actual, size)}


def _problem(path: Path, actual: ClipInfo, wanted: Scale) -> str:
    if (actual.height, actual.width, actual.frames) == (wanted.height, wanted.width, wanted.frames) and (
        abs(actual.fps - wanted.fps) < 0.01 * wanted.fps
    ):
        return ""
    one, two = (f"{s.height}x{s.width}x{s.frames} at {s.fps:g} fps" for s in (actual, wanted))
    return f"{path.name} is {one}, not {two}"
