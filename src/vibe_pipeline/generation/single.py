"""Clips of one's own through one row of `arms`: another program's clip refined, or a prompt rendered and refined.

Nothing here makes pixels: clips are brought to what a method takes (a lossless native clip of 4k + 1 frames), its entry
in `METHODS` does the work under its content keys, and the pieces are put together again.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import ValidationError

from vibe_pipeline.diffusion.attention import kind_of
from vibe_pipeline.diffusion.checkpoint import clip_grid, find_model, require_fitting_size, size_step, token_grid
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.model import ClipSize
from vibe_pipeline.experiment.tables import Experiment
from vibe_pipeline.generation.attention_sizes import chunk_size, require_fitting_pass, require_fitting_sizes
from vibe_pipeline.generation.clip_cache import manifest_path
from vibe_pipeline.generation.first_frames import require_first_frames
from vibe_pipeline.generation.methods import ArmJob, check_arm, method_of
from vibe_pipeline.generation.pieces import Piece, cut, joined
from vibe_pipeline.generation.prompts import prompt_rows
from vibe_pipeline.io.clip_files import SUFFIXES, clip_files
from vibe_pipeline.io.decoding import ClipInfo, probe
from vibe_pipeline.io.errors import did_you_mean, refusal
from vibe_pipeline.io.files import read_json, write_json
from vibe_pipeline.io.keys import content_key, file_sha256
from vibe_pipeline.io.manifests import AdapterManifest
from vibe_pipeline.io.named import require_file
from vibe_pipeline.io.video import read_frames, write_lossless, write_playable

log = logging.getLogger(__name__)

Size = tuple[int, int]


def chosen_arm(experiment: Experiment, name: str | None, changes: Mapping[str, Any]) -> tuple[str, ArmParams]:
    """A row by its name, or the reference, or the first with an adapter; and what is asked for instead of its fields.

    The name of a row that was swept, over training seeds for example, means its first variant.

    Raises:
        ValueError: There is no such row, its method does not start from a native clip, or a value cannot be used.
    """
    fitting = {n: arm for n, arm in experiment.arms.items() if method_of(arm).takes_clips}
    if name is None:
        with_adapter = (n for n, arm in fitting.items() if arm.adapter and not arm.keep_stage1)
        reference = _first_of(experiment.reference_arm, fitting)
        name = reference if reference in fitting else next(with_adapter, None)
    else:
        name = _first_of(name, fitting)
    if name not in fitting:
        there = experiment.arms.get(name or "")
        why = f"takes no clip, being of method {there.method}" if there else "is not a row of arms"
        near = did_you_mean(name, fitting) or ";"
        raise ValueError(f"--arm {name!r} {why}{near} rows that take a clip: {', '.join(fitting) or 'none'}")
    row = fitting[name]
    try:
        changed = ArmParams(**row.model_dump(exclude_unset=True) | dict(changes)) if changes else row
    except ValidationError as error:
        raise ValueError(refusal(error, f"arms.{name}", ArmParams)) from None
    try:
        check_arm(changed)
    except ValueError as error:
        raise ValueError(f"arms.{name}: {error}") from None
    return name, changed


def _first_of(name: str, arms: Mapping[str, ArmParams]) -> str:
    """A row, or the first variant of the swept row that is called so."""
    variants = (n for n, arm in arms.items() if any(origin.family == name for origin in arm.origins))
    return name if name in arms else next(variants, name)


def given_adapter(adapter: str, folder: Path) -> AdapterManifest:
    """The manifest of an adapter: a file in our (diffusers') layout, or a trained row by its name.

    Args:
        adapter: A path with a suffix, or a name.
        folder: Where trained adapters have their manifests.

    Raises:
        FileNotFoundError: There is no such file, or no such row was trained; names those that were.
        ValueError: The manifest is not one.
    """
    if Path(adapter).suffix:
        path = require_file(Path(adapter), "--adapter", "give a .safetensors file or the name of a trained row")
        return AdapterManifest(name="given", path=path, key=file_sha256(path))
    manifest = folder / f"{adapter}.json"
    if not manifest.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.json"))) or "none yet"
        raise FileNotFoundError(
            f"{adapter!r} is neither a file, nor a folder with an adapter in it, nor a trained row; trained: {known}; "
            "`kedro run` trains the rows of an environment, --adapter names another row, a .safetensors file or a "
            "folder that import-adapter wrote"
        )
    return AdapterManifest.read(manifest)


def clips_in(path: Path) -> list[Path]:
    """A clip, or every clip that lies in a folder, by name; those that `refine` itself put there are left out.

    Raises:
        FileNotFoundError: Neither is there, or the folder holds no clip.
    """
    if path.is_dir():
        found = [clip for clip in clip_files(path) if not _was_refined(clip)]
        if not found:
            raise FileNotFoundError(
                f"{path} holds no clip; known suffixes: {', '.join(SUFFIXES)} (frames as stills become one by "
                "`ffmpeg -framerate 16 -pattern_type glob -i '*.png' -qp 0 clip.mp4`)"
            )
        return found
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give a clip or a folder of clips")
    return [path]


def _was_refined(clip: Path) -> bool:
    """Whether the JSON beside a clip is the one that :meth:`Made.save` writes of another clip."""
    beside = clip.with_suffix(".json")
    try:
        content = read_json(beside) if beside.is_file() else None
    except ValueError:  # somebody else's file, as ours is written whole
        return False
    return isinstance(content, dict) and {"source", "pieces"} <= content.keys()


@dataclass(frozen=True)
class Made:
    """A clip that was made: its pieces on disk, lossless, under their content keys.

    Attributes:
        pieces: Which frames each holds.
        paths: Of the pieces.
        size: Height and width in pixels.
        fps: Frames a second.
        origin: What it was made from, for the manifest.
    """

    pieces: list[Piece]
    paths: list[Path]
    size: Size
    fps: float
    origin: dict[str, Any]

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """Its frames [H, W, 3], one in memory at a time."""
        return joined(self.pieces, self.paths)

    def save(self, path: Path, lossless: bool = False) -> Path:
        """Write it as one video, and beside it as JSON what it was made from and with.

        Args:
            path: The new video.
            lossless: RGB without loss, for measuring; else H.264 that every player shows.
        """
        (write_lossless if lossless else write_playable)(path, self.frames(), self.fps)
        made_with = [read_json(manifest_path({"path": piece})) for piece in self.paths]
        write_json(path.with_suffix(".json"), self.origin | {"pieces": made_with})
        return path


def refine_clip(source: Path, prompt: str, job: ArmJob, seed: int = 0, to: Size | None = None) -> Made:
    """Another program's clip, enlarged and refined by a row.

    A clip that is longer than the base's native length is refined in pieces of that length, which overlap and fade into
    one another; a row with `long` takes it whole, in chunks that are joined at every step. A clip of other proportions
    than the new size is cut around its middle.

    Args:
        source: A clip of a container that `io.decoding` reads; turned and measured as it is shown.
        prompt: What it shows; the base was trained with captions.
        job: The row, its adapter, the base; its target over its native size gives the default enlargement.
        seed: Of the noise.
        to: The new (height, width) in pixels; None: the clip's, times what the model's target is of its native size.

    Raises:
        ValueError: The file cannot be read as a video, the size does not fit the model, or is smaller than the clip.
    """
    info = probe(source)
    for note in info.notes:
        log.warning("%s: %s", source, note)
    height, width = new_size(info, job, to)
    pieces = [Piece(0, info.frames)] if job.arm.long else cut(info.frames, job.model.native.frames)
    size = ClipSize(height=height, width=width, frames=pieces[0].frames, fps=info.fps or job.model.native.fps)
    if method_of(job.arm).runs_transformer:
        checkpoint, trained = find_model(job.model.path), job.model.native
        grid = token_grid(checkpoint, trained.height, trained.width)
        seen = chunk_size(job.arm, size, trained.frames)
        require_fitting_pass(checkpoint, seen, job.arm, grid, f"arms.{job.name}: the clip")
    native = _native_rows(source, pieces, (height, width), info, job)
    # Only the target changes: the native size, on which windows are measured, stays what the base was trained at.
    model = job.model.model_copy(update={"target": size})
    made = method_of(job.arm).clips(replace(job, native=native.assign(prompt=prompt, seed=seed), model=model))
    origin = {"source": str(source), "frames": info.frames, "arm": job.name, "prompt": prompt, "seed": seed}
    return Made(pieces, [Path(path) for path in made["path"]], (height, width), size.fps, origin)


def generate_clips(prompts: Sequence[str], job: ArmJob, seed: int = 0, first_frame: Path | None = None) -> list[Made]:
    """Prompts rendered by the base at native size, then made larger by a row; both kept, native clip first.

    Args:
        prompts: What to show.
        job: The row, its adapter, the base.
        seed: Of the noise.
        first_frame: The picture that every clip begins with, for a base that takes one.

    Returns:
        For each prompt its native clip and its large one.

    Raises:
        ValueError: The base takes no first frame, or this one is smaller than its native size; the target does not
            fit the row.
    """
    from vibe_pipeline.generation.render import native_clips

    rows = prompt_rows(prompts, seed, first_frame)
    checkpoint = find_model(job.model.path)
    require_first_frames(rows, job.model.native, checkpoint.name, checkpoint.expand_timesteps)
    require_fitting_sizes(checkpoint, job.model, {job.name: job.arm})
    native = native_clips(rows, job.model, job.generation, job.root)
    made = method_of(job.arm).clips(replace(job, native=native))
    clips = []
    for table, name, size in ((native, "native", job.model.native), (made, job.name, job.model.target)):
        for row in table.to_dict("records"):
            origin = {"arm": name, "prompt": row["prompt"], "seed": seed, "frames": size.frames}
            place = [Piece(0, size.frames)], [Path(row["path"])], (size.height, size.width), size.fps
            clips.append(Made(*place, origin))
    return [clip for pair in zip(clips[: len(rows)], clips[len(rows) :], strict=True) for clip in pair]


def new_size(info: ClipInfo, job: ArmJob, to: Size | None) -> Size:
    """The size that a clip is brought to.

    Raises:
        ValueError: It does not fit the model, or is smaller than the clip.
    """
    model, checkpoint = job.model, find_model(job.model.path)
    target = clip_grid(checkpoint, model.target.height, model.target.width, model.target.frames)
    pool = kind_of(job.arm.attention).multiples(target)[1:]
    if to is None:
        rows, columns = size_step(checkpoint, pool)
        height = int(info.height * model.target.height / model.native.height) // rows * rows
        width = int(info.width * model.target.width / model.native.width) // columns * columns
        to = max(rows, height), max(columns, width)
    require_fitting_size(checkpoint, *to, "the new size", pool)
    if to[0] < info.height or to[1] < info.width:
        raise ValueError(
            f"the new size {to[0]}x{to[1]} (height x width) is smaller than the clip's {info.height}x{info.width}: "
            "a clip is only ever enlarged"
        )
    return to


def _native_rows(source: Path, pieces: list[Piece], size: Size, info: ClipInfo, job: ArmJob) -> pd.DataFrame:
    """Lossless native clips of the pieces, as methods take them: prompt_index, path and key of each."""
    top, bottom, left, right = _middle(info, size)
    content, rows = file_sha256(source), []
    for piece in pieces:
        key = content_key(content, [piece.start, piece.stop, piece.frames], [top, bottom, left, right])
        path = job.root / "given" / f"{key}.mp4"
        if not path.exists():
            taken = [f[top:bottom, left:right] for f in islice(read_frames(source), piece.start, piece.stop)]
            taken += [taken[-1]] * (piece.frames - len(taken))
            write_lossless(path, taken, info.fps or job.model.native.fps)
        rows.append({"prompt_index": piece.start, "path": str(path), "key": key})
    return pd.DataFrame(rows)


def _middle(info: ClipInfo, size: Size) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of the largest part of a clip, around its middle, with the proportions of `size`."""
    scale = min(info.height / size[0], info.width / size[1])
    height, width = min(info.height, round(size[0] * scale)), min(info.width, round(size[1] * scale))
    top, left = (info.height - height) // 2, (info.width - width) // 2
    if (height, width) != (info.height, info.width):
        log.info("cut from %dx%d to %dx%d, the new proportions", info.height, info.width, height, width)
    return top, top + height, left, left + width
