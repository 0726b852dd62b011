"""VBench's scores on disk, per clip and dimension: a killed run loses the clip in work, a new dimension adds itself."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from vibe_pipeline.io.files import write_atomic
from vibe_pipeline.io.keys import EDGE, content_key, file_sha256

COLUMNS = ("dimension", "key", "value", "seconds")
ENGINE_VERSION = 1
"""Raised whenever a change here changes scores: part of every key."""


@dataclass(frozen=True)
class ScoreStore:
    """A folder with one parquet file per clip and prompt, a row per dimension."""

    folder: Path

    def read(self, clip: str) -> dict[tuple[str, str], float]:
        """(dimension, key) to score; empty if nothing is kept or the file is damaged."""
        try:
            table = pd.read_parquet(self._path(clip))
        except (OSError, ValueError):
            return {}
        if not set(COLUMNS) <= set(table) or not pd.api.types.is_numeric_dtype(table["value"]):
            return {}
        return {(row.dimension, row.key): float(row.value) for row in table.itertuples(index=False)}

    def add(self, clip: str, dimension: str, key: str, value: float, seconds: float) -> None:
        """Keep one more score; NaN is VBench's "nothing to score"."""
        path = self._path(clip)
        row = pd.DataFrame([(dimension, key, value, seconds)], columns=list(COLUMNS))
        if self.read(clip):
            before = pd.read_parquet(path)
            row = pd.concat([before[before["dimension"] != dimension], row], ignore_index=True)
        write_atomic(path, lambda p: row.to_parquet(p, index=False))

    def _path(self, clip: str) -> Path:
        return self.folder / f"{clip}.parquet"


def clip_id(path: Path, prompt: str, stated: tuple[int, int, int], key: str | None = None) -> str:
    """What tells clips apart: the content key it was made under, else the file's content; its prompt; and the frames,
    height and width that its row states, as a clip that differs from them is not scored."""
    return content_key(key or file_sha256(path), path.stat().st_size, prompt, stated)


def weights_fingerprint(files: list[Path]) -> str:
    """A hash of weight files: size, and the first and last MiB, as a changed file practically always differs there."""
    parts = []
    for file in files:
        size = file.stat().st_size
        with file.open("rb") as stream:
            head = stream.read(EDGE)
            stream.seek(max(0, size - EDGE))
            parts.append((file.name, size, head.hex(), stream.read(EDGE).hex()))
    return content_key(*parts)
