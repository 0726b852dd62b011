"""The native clips at a glance, before the expensive pass: contact sheets and playable copies."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from vibe_pipeline.io.files import write_atomic
from vibe_pipeline.reporting.media import GAP, PAPER, TEXT, some_frames, wrapped

FRAME = 200
COLUMNS = 2
PER_SHEET = 24


def write_preview(clips: pd.DataFrame, folder: Path) -> list[Path]:
    """Contact sheets of all clips, and a playable copy of each.

    Args:
        clips: prompt_index, prompt, seed, path, preview_path.
        folder: Gets sheet_1.png, sheet_2.png, … of 24 clips each, and clips/; what an earlier run left goes.

    Returns:
        The sheets.
    """
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "clips").mkdir(parents=True)
    for row in clips.itertuples(index=False):
        shutil.copyfile(row.preview_path, folder / "clips" / f"{row.prompt_index:04d}-{row.seed}.mp4")
    sheets = []
    for number, start in enumerate(range(0, len(clips), PER_SHEET), 1):
        sheet = preview_sheet(clips.iloc[start : start + PER_SHEET])
        sheets.append(write_atomic(folder / f"sheet_{number}.png", sheet.save))
    return sheets


def preview_sheet(clips: pd.DataFrame) -> Image.Image:
    """First, middle and last frame of every clip, labelled with prompt and seed."""
    strips = [_strip(Path(path)) for path in clips["path"]]
    height, width, _ = strips[0].shape
    font = ImageFont.load_default(size=13)
    labels = [
        wrapped(f"{r.prompt_index}, seed {r.seed}: {r.prompt}", width, font) for r in clips.itertuples(index=False)
    ]
    head = 18 * max(map(len, labels)) + 4
    columns = min(COLUMNS, len(strips))
    rows = -(-len(strips) // columns)
    sheet = Image.new("RGB", (columns * (width + GAP) + GAP, rows * (head + height + GAP) + GAP), PAPER)
    for i, (strip, lines) in enumerate(zip(strips, labels, strict=True)):
        x, y = GAP + i % columns * (width + GAP), GAP + i // columns * (head + height + GAP)
        ImageDraw.Draw(sheet).multiline_text((x, y), "\n".join(lines), TEXT, font, spacing=3)
        sheet.paste(Image.fromarray(strip), (x, y + head))
    return sheet


def _strip(path: Path) -> np.ndarray:
    frames = some_frames(path, lambda count: [0, count // 2, count - 1])
    height = round(FRAME * frames[0].shape[0] / frames[0].shape[1])
    method = Image.Resampling.NEAREST if frames[0].shape[1] <= FRAME else Image.Resampling.LANCZOS
    return np.concatenate([np.asarray(Image.fromarray(f).resize((FRAME, height), method)) for f in frames], 1)
