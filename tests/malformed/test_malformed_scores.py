"""Score files that people give are refused; what the program keeps for itself is made again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from safetensors.torch import save_file
from torch import ones

from vibe_pipeline.evaluation.bootstrap import Bootstrap
from vibe_pipeline.experiment.run import TrackingParams
from vibe_pipeline.images.cache import LatentCache
from vibe_pipeline.io.table_cache import remembered
from vibe_pipeline.reporting.compare import compare, find_side
from vibe_pipeline.vbench.kept_scores import ScoreStore

TABLE = pd.DataFrame(
    {
        "arm": "full",
        "prompt_index": range(8),
        "seed": 0,
        "metric": "flicker",
        "value": [float(i % 3) for i in range(8)],
        "status": "scored",
        "reason": "",
        "direction": "lower",
        "family": "detail",
        "prompt": [f"prompt {i}" for i in range(8)],
    }
)


def compared(first: Path, second: Path) -> Any:
    sides = (find_side(str(a), str(b), TrackingParams()) for a, b in ((first, second), (second, first)))
    return compare(*sides, bootstrap=Bootstrap(50))


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """Scores to compare with."""
    TABLE.to_parquet(tmp_path / "good.parquet")
    return tmp_path / "good.parquet"


# How the bytes of a score file are changed.
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "0 bytes": lambda content: b"",
    "text": lambda content: b"arm,prompt_index,seed\n",
    "marks alone": lambda content: b"PAR1PAR1",
    "cut": lambda content: content[:-40],
    "footer of zeros": lambda content: content[:-400] + bytes(392) + content[-8:],
    "footer longer than the file": lambda content: content[:-8] + b"\xff\xff\xff\x7fPAR1",
}


@pytest.mark.parametrize("case", DAMAGES)
def test_a_file(good: Path, refused: Callable, case: str) -> None:
    path = good.with_name("mine.parquet")
    path.write_bytes(DAMAGES[case](good.read_bytes()))
    refused(lambda: compared(path, good), str(path), "parquet")


# How the table is changed, and what the message names beside the file.
TABLES: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], str]] = {
    "no prompts": (lambda t: t.drop(columns="prompt"), "prompt"),
    "no values": (lambda t: t.drop(columns="value"), "value"),
    "no columns": (lambda t: t[[]], "arm"),
    "another table": (lambda t: pd.DataFrame({"step": [1], "loss": [2.0]}), "arm"),
    "values in words": (lambda t: t.assign(value="high"), "value"),
    "no rows": (lambda t: t.head(0), "no score"),
    "no clip": (lambda t: t.assign(prompt=None), "no score"),
}


@pytest.mark.parametrize("case", TABLES)
def test_a_table(good: Path, refused: Callable, case: str) -> None:
    change, named = TABLES[case]
    path = good.with_name("mine.parquet")
    change(TABLE).to_parquet(path)
    refused(lambda: compared(path, good), str(path), named)


def test_a_file_that_is_not_there(good: Path, refused: Callable) -> None:
    refused(lambda: compared(good.with_name("gone.parquet"), good), "gone.parquet")


# What a file of ours is turned into; none of it is given out as scores.
OWN: dict[str, bytes] = {"0 bytes": b"", "text": b"0.5", "marks alone": b"PAR1PAR1", "bytes": b"\xff\xfe\x00"}


@pytest.mark.parametrize("case", OWN)
def test_kept_scores_are_computed_anew(tmp_path: Path, unchanged: Callable, case: str) -> None:
    store = ScoreStore(tmp_path / "clips")
    for clip in ("a", "b"):
        store.add(clip, "flicker", "k", 0.5, 1.0)
    damaged = tmp_path / "clips" / "a.parquet"
    damaged.write_bytes(OWN[case])
    assert store.read("a") == {} and store.read("b") == {("flicker", "k"): 0.5}
    unchanged(lambda: store.add("a", "flicker", "k", 0.7, 1.0), damaged)
    assert store.read("a") == {("flicker", "k"): 0.7}


@pytest.mark.parametrize("columns", [["dimension"], ["key", "value"], ["dimension", "key", "value", "seconds"]])
def test_kept_scores_of_another_shape(tmp_path: Path, columns: list[str]) -> None:
    """Columns missing, or words for numbers."""
    store = ScoreStore(tmp_path)
    pd.DataFrame([["a"] * len(columns)], columns=columns).to_parquet(tmp_path / "a.parquet")
    assert store.read("a") == {}
    store.add("a", "flicker", "k", 0.7, 1.0)
    assert store.read("a") == {("flicker", "k"): 0.7}


@pytest.mark.parametrize(
    ("name", "case"),
    [("k.names", "0 bytes"), ("k.names", "text"), ("k.names", "bytes"), *(("k.scores.parquet", case) for case in OWN)],
)
def test_kept_tables_are_computed_anew(tmp_path: Path, unchanged: Callable, name: str, case: str) -> None:
    made: list[int] = []

    def make() -> dict[str, pd.DataFrame]:
        made.append(1)
        return {"scores": TABLE}

    remembered(tmp_path, "k", make)
    (tmp_path / "other.parquet").write_bytes(b"mine")
    (tmp_path / name).write_bytes(OWN[case])
    again = unchanged(lambda: remembered(tmp_path, "k", make), tmp_path / "k.names", tmp_path / "k.scores.parquet")
    pd.testing.assert_frame_equal(again["scores"], TABLE)
    assert len(made) == 2


# What the shard of a training set holds instead of its latents, and what the message names.
SHARDS: dict[str, tuple[Any, str]] = {
    "0 bytes": (b"", "damaged"),
    "text": (b"latents", "damaged"),
    "gone": (None, "gone"),
    "cut": (b"\x10\0\0\0\0\0\0\0{", "damaged"),
    "of other images": ({"1.low": ones(4, 1, 2, 2)}, "0.low"),
    "of other shapes": ({"0.low": ones(4, 1, 2, 2), "2.low": ones(4, 1, 3, 2)}, "shape"),
}


@pytest.mark.parametrize("case", SHARDS)
def test_a_shard(tmp_path: Path, refused: Callable, case: str) -> None:
    content, named = SHARDS[case]
    path = tmp_path / "latents-1.safetensors"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        save_file(content, path)
    place = {"caption": "a", "shard": str(path), "text_shard": str(path), "held_out": False, "bucket": 0}
    cache = LatentCache({"key": "k", "images": [{"sha256": n, **place} for n in "02"]})
    refused(lambda: cache.batch("low", [0, 1]), str(path), named, "data_processing")
