"""VBench's scores on disk, per clip and dimension: a killed run loses the clip in work, a new dimension adds itself."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from pyarrow.parquet import ParquetFile
from pyarrow.types import is_floating

from vibe_pipeline.io.files import write_atomic
from vibe_pipeline.io.keys import EDGE, content_key, file_sha256

log = logging.getLogger(__name__)

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
            with ParquetFile(self._path(clip)) as file:  # pandas takes six times as long, and there is a file a clip
                table = file.read()
        except (OSError, ValueError):
            return {}
        if not set(COLUMNS) <= set(table.column_names) or not is_floating(table.schema.field("value").type):
            return {}
        kept = table.select(["dimension", "key", "value"]).to_pydict()
        pairs = zip(kept["dimension"], kept["key"], strict=True)
        return {pair: math.nan if v is None else v for pair, v in zip(pairs, kept["value"], strict=True)}

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


@dataclass(frozen=True)
class WholeTables:
    """A folder with one parquet file per table of clips that was scored without a gap.

    A run in which nothing changed then opens one file, and not one a clip, which takes milliseconds each.
    """

    folder: Path

    def path(self, wanted: Sequence[tuple[str, Sequence[str]]], keys: Mapping[str, str]) -> Path:
        """Of clips with their dimensions, and what determines each dimension's scores."""
        return self.folder / f"{content_key('table', sorted(map(list, wanted)), dict(keys))}.parquet"

    def read(self, path: Path) -> dict[tuple[str, str], float]:
        """(clip, dimension) to score; empty if there is no such table, or it is damaged."""
        if not path.exists():
            return {}
        try:
            table = pd.read_parquet(path, columns=["clip", "dimension", "value"])
            pairs = zip(table["clip"], table["dimension"], strict=True)
            return dict(zip(pairs, table["value"].astype(float).tolist(), strict=True))
        except (OSError, ValueError) as error:
            log.warning("%s is damaged (%s); scores are read clip by clip", path, error)
            return {}

    def write(self, path: Path, values: Mapping[tuple[str, str], float]) -> None:
        """Keep the scores of all clips at once."""
        rows = [(clip, dimension, value) for (clip, dimension), value in values.items()]
        table = pd.DataFrame(rows, columns=["clip", "dimension", "value"])
        write_atomic(path, lambda p: table.to_parquet(p, index=False))


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
