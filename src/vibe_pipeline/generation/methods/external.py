"""Another system's clips as an arm: found by prompt and sample, checked, and never altered.

Two layouts are read. VBench's: `PROMPT-INDEX.mp4`, where INDEX counts the samples of a prompt from 0. Or a table
`clips.csv` with the columns file, prompt and seed, files relative to it.
"""

import logging
import re
from pathlib import Path
from typing import Any

import pandas as pd

from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.generation.clip_cache import Scale
from vibe_pipeline.generation.methods.base import ArmJob, Method
from vibe_pipeline.generation.prompts import read_table
from vibe_pipeline.io.decoding import probe
from vibe_pipeline.io.errors import absent_columns, not_utf8, one_line
from vibe_pipeline.io.files import is_file, write_json
from vibe_pipeline.io.keys import content_key, file_sha256
from vibe_pipeline.io.named import require_folder
from vibe_pipeline.io.video import read_frames, write_preview

log = logging.getLogger(__name__)

log = logging.getLogger(__name__)

TABLE = "clips.csv"
COLUMNS = ("file", "prompt", "seed")
SHOWN = 5
_SEED = re.compile(r"-?[0-9]{1,18}")


class External(Method):
    """Another system's clips, from the folder `path` of the row."""

    name = "external"
    uses_device = False
    from_native = False
    own_fields = frozenset({"path"})

    def check(self, arm: ArmParams) -> None:
        """A folder is named."""
        if arm.path is None:
            raise ValueError("method external needs `path`, a folder of clips")

    def describe(self, arm: ArmParams) -> str:
        """Where they come from."""
        return f"another system's clips, from {arm.path}"

    def clips(self, job: ArmJob) -> pd.DataFrame:
        """The clips of `arm.path` that answer the run's prompts, as they are.

        Another size, length or rate than the target's is kept and stated: VBench compares any two clips, and measures
        that pair pixels say that they cannot.

        Returns:
            As for any method, each clip with its own height, width, frames and fps; `differs` says how they differ from
            the target; `notes` says what of a file is measured otherwise than a player shows it: uneven times, HDR,
            pixels that are not square. `seconds` is NaN: how long they took is not known.

        Raises:
            FileNotFoundError: No such folder, or clips are missing for some (prompt, seed).
            ValueError: A clip cannot be read.
        """
        rows = job.native.rename(columns={"path": "native_path", "key": "native_key"})
        clips = measured_clips(job.name, job.arm, rows, job.size)
        for row, path in clips:
            _keep(row, path, job.root / "external")
        table = pd.DataFrame([row for row, _ in clips])
        for path, notes in zip(table["path"], table["notes"], strict=True):
            if notes:
                log.warning("%s: %s", path, notes)
        for said, differing in table[table["differs"] != ""].groupby("differs"):
            log.warning(
                "arms.%s: %d of %d clips differ from model.target: %s", job.name, len(differing), len(table), said
            )
        made = table.assign(arm=job.name, seconds=float("nan"), method=self.name)
        return made.assign(sigma_start=float("nan"), native_source="another system")


def measured_clips(
    name: str, arm: ArmParams, prompts: pd.DataFrame, target: Scale
) -> list[tuple[dict[str, Any], Path]]:
    """Find and measure the clips of an arm; nothing is written.

    Returns:
        Each row of the prompts with height, width, frames, fps, differs and notes; and the clip.

    Raises:
        FileNotFoundError: No such folder, or clips are missing for some (prompt, seed).
        ValueError: A clip cannot be read.
    """
    home = require_folder(arm.path or Path(), f"arms.{name}.path", "put the other system's clips there")
    found = _listed(home) if is_file(home / TABLE) else _named(home, prompts)
    rows = prompts.to_dict("records")
    places = [found.get((r["prompt"], r["seed"])) or found.get((_normal(r["prompt"]), r["seed"])) for r in rows]
    missing = [r for r, place in zip(rows, places, strict=True) if place is None]
    if missing:
        shown = "; ".join(f"{r['prompt'][:60]!r} seed {r['seed']}" for r in missing[:SHOWN])
        raise FileNotFoundError(
            f"arms.{name}: {home} lacks {len(missing)} of {len(rows)} clips, among them {shown}. Name them "
            f"PROMPT-INDEX.mp4 (the index counts a prompt's seeds from 0) or list them in {home / TABLE}"
        )
    clips = []
    for row, path in zip(rows, filter(None, places), strict=True):
        actual = probe(path)
        size = Scale(actual.height, actual.width, actual.frames, actual.fps)
        stated = {"differs": difference(size, target), "notes": "; ".join(actual.notes)}
        clips.append((row | vars(size) | stated, path))
    return clips


def difference(actual: Scale, target: Scale) -> str:
    """How a clip's size, length and rate differ from the target's, for people; empty where they do not."""
    said = []
    if (actual.height, actual.width) != (target.height, target.width):
        said.append(f"{actual.height}x{actual.width} beside {target.height}x{target.width}")
    if actual.frames != target.frames or abs(actual.fps - target.fps) >= 0.01 * target.fps:
        said.append(f"{actual.frames} frames at {actual.fps:g} fps beside {target.frames} at {target.fps:g}")
    return ", ".join(said)


def _keep(row: dict[str, Any], path: Path, folder: Path) -> None:
    """Complete a row with its key, path and playable copy, which is made with a manifest beside it."""
    sha256 = file_sha256(path)
    preview = folder / f"{row['prompt_index']:04d}-{row['seed']}-{sha256[:8]}.preview.mp4"
    if not preview.exists():
        write_preview(preview, read_frames(path), row["fps"])
    row |= {"key": content_key("external", sha256), "path": str(path), "preview_path": str(preview)}
    size = {k: row[k] for k in ("height", "width", "frames", "fps")}
    stated = {k: row[k] for k in ("prompt_index", "prompt", "seed", "path", "key")}
    write_json(
        preview.with_name(preview.name.replace(".preview.mp4", ".json")),
        stated | {"size": size, "differs": row["differs"], "sha256": sha256},
    )


def _listed(folder: Path) -> dict[tuple[str, int], Path]:
    path = folder / TABLE
    try:
        table = read_table(path).fillna("")
    except UnicodeDecodeError as error:
        raise ValueError(not_utf8(path)) from error
    if absent := absent_columns(COLUMNS, [str(name) for name in table]):
        raise ValueError(f"{path} {absent}; it needs {', '.join(COLUMNS)}")
    found: dict[tuple[str, int], Path] = {}
    for line, row in enumerate(table.to_dict("records"), 2):
        try:
            clip = (folder / row["file"]).resolve()
            there = clip.is_file()
        except (OSError, ValueError) as error:  # null bytes, names too long
            raise ValueError(
                f"{path}, line {line}: {one_line(repr(row['file']))} is not a file name: {one_line(error, 60)}"
            ) from error
        if not clip.is_relative_to(folder.resolve()):
            raise ValueError(f"{path}, line {line}: {one_line(repr(row['file']))} leaves the folder")
        if not _SEED.fullmatch(row["seed"].strip()):
            raise ValueError(f"{path}, line {line}: seed {one_line(repr(row['seed']), 60)} is not a whole number")
        key = (row["prompt"].strip(), int(row["seed"]))
        if key in found:
            raise ValueError(f"{path}, line {line}: {key[0][:60]!r} with seed {key[1]} is listed twice")
        if not there:
            raise FileNotFoundError(f"{path}, line {line}: there is no {one_line(repr(row['file']))} in {folder}")
        found[key] = clip
    return {(_normal(prompt), seed): clip for (prompt, seed), clip in found.items()} | found


def _named(folder: Path, prompts: pd.DataFrame) -> dict[tuple[str, int], Path]:
    found = {}
    for prompt, rows in prompts.groupby("prompt", sort=False):
        for index, seed in enumerate(sorted(rows["seed"])):
            # A slash cannot stand in a file's name; VBench's own prompts have none.
            path = folder / f"{prompt.replace('/', '_')}-{index}.mp4"
            if is_file(path):
                found[prompt, seed] = path
    return found


def _normal(prompt: str) -> str:
    """A prompt with its white space collapsed, as tables of prompts are read."""
    return " ".join(prompt.split())
