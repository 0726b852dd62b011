"""Clips: what is not a whole video, and another system's folder with the wrong ones in it."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.generation.clip_cache import ClipJob, Scale, make_clips
from vibe_pipeline.generation.render import arm_clips
from vibe_pipeline.io.video import read_clip, write_lossless

PROMPTS = pd.DataFrame({"prompt_index": [0, 1], "prompt": ["a cat", "a dog"], "seed": [3, 3]})
NAMES = ["a cat-0.mp4", "a dog-0.mp4"]
SIZE = Scale(64, 96, 5, 8.0)


def clip(path: Path, height: int = 64, frames: int = 5, fps: float = 8.0) -> Path:
    pixels = np.random.default_rng(height + frames).random((frames, height, 96, 3), np.float32)
    return write_lossless(path, pixels, fps)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A clip as it should be."""
    return clip(tmp_path_factory.mktemp("clip") / "a.mp4").read_bytes()


@pytest.fixture
def folder(tmp_path: Path, whole: bytes) -> Path:
    """Another system's clips, and one outside of their folder."""
    (tmp_path / "clips").mkdir()
    for path in (*(tmp_path / "clips" / name for name in NAMES), tmp_path / "secret.mp4"):
        path.write_bytes(whole)
    return tmp_path / "clips"


# How a clip's bytes are changed.
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "0 bytes": lambda content: b"",
    "text": lambda content: b"a video of a cat",
    "page": lambda content: b"<!DOCTYPE html><p>404",
    "cut before its index": lambda content: content[: len(content) // 2],
    "cut to its head": lambda content: content[:100],
    "zeros": lambda content: bytes(len(content)),
    "playlist": lambda content: b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n../secret.mp4\n#EXT-X-ENDLIST\n",
    "list of files": lambda content: b"ffconcat version 1.0\nfile secret.mp4\n",
    "subtitles": lambda content: b"1\n00:00:00,000 --> 00:00:01,000\nhello\n",
    "png": lambda content: b"\x89PNG\r\n\x1a\n" + bytes(50),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_a_clip(folder: Path, whole: bytes, refused: Callable, case: str) -> None:
    path = folder / NAMES[0]
    path.write_bytes(DAMAGES[case](whole))
    (folder / "secret.mp4").write_bytes(whole)
    refused(lambda: read_clip(path), str(path))
    refused(lambda: external(folder), str(path))


def external(folder: Path) -> pd.DataFrame:
    size = {"height": SIZE.height, "width": SIZE.width, "frames": SIZE.frames, "fps": SIZE.fps}
    model = ModelParams(path="m", native=size | {"height": 32, "width": 48}, target=size)
    arm = ArmParams(label="them", method="external", path=folder)
    generation = GenerationParams(prompts="miniature")
    return arm_clips("them", arm, PROMPTS, None, None, model, generation, folder.parent / "previews")


def test_one_is_missing(folder: Path, refused: Callable) -> None:
    (folder / NAMES[1]).rename(folder / "a dog-1.mp4")
    refused(lambda: external(folder), str(folder), "'a dog' seed 3")


HEAD = "file,prompt,seed\n"
# A table of another system's clips, and what the message names beside it.
TABLES: dict[str, tuple[bytes | str, str]] = {
    "0 bytes": ("", "CSV"),
    "no column": ("file,prompt\na cat-0.mp4,a cat\n", "seed"),
    "column twice": ("file,file,prompt,seed\na,b,c,1\n", "file"),
    "latin-1": (HEAD.encode() + b"caf\xe9.mp4,a cat,3\n", "0xe9"),
    "upwards": (f"{HEAD}../secret.mp4,a cat,3\n", "line 2"),
    "absolute": (f"{HEAD}/etc/passwd,a cat,3\n", "/etc/passwd"),
    "linked": (f"{HEAD}link.mp4,a cat,3\n", "leaves the folder"),
    "not there": (f"{HEAD}gone.mp4,a cat,3\n", "gone.mp4"),
    "name too long": (f"{HEAD}{'n' * 300},a cat,3\n", "line 2"),
    "comma without quotes": (f"{HEAD}a cat-0.mp4,a cat, running,3\n", "line 2"),
    "too few values": (f"{HEAD}a cat-0.mp4,a cat,3\na dog-0.mp4\n", "line 3"),
    "seed in words": (f"{HEAD}a cat-0.mp4,a cat,three\n", "'three'"),
    "seed half": (f"{HEAD}a cat-0.mp4,a cat,3.5\n", "'3.5'"),
    "seed of two signs": (f"{HEAD}a cat-0.mp4,a cat,--3\n", "'--3'"),
    "seed without end": (f"{HEAD}a cat-0.mp4,a cat,{'9' * 5000}\n", "line 2"),
    "twice": (f"{HEAD}a cat-0.mp4,a cat,3\na dog-0.mp4,a cat,3\n", "line 3"),
    "another prompt": (f"{HEAD}a cat-0.mp4,a cow,3\na dog-0.mp4,a dog,3\n", "'a cat' seed 3"),
}


@pytest.mark.parametrize("case", TABLES)
def test_a_table(folder: Path, refused: Callable, case: str) -> None:
    content, named = TABLES[case]
    (folder / "link.mp4").symlink_to("../secret.mp4")
    (folder / "clips.csv").write_bytes(content.encode() if isinstance(content, str) else content)
    refused(lambda: external(folder), str(folder / "clips.csv"), named)


# What a clip's own manifest is turned into; the clip is made again.
MANIFESTS: dict[str, bytes] = {
    "0 bytes": b"",
    "cut": b'{"key": "',
    "bytes": b"\xff\xfe\x00",
    "a list": b"[]",
    "another key": b'{"key": "0", "bytes": 1, "seconds": 1.0}',
    "no seconds": b'{"key": "0", "bytes": 1}',
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_our_own_clip_is_made_anew(tmp_path: Path, unchanged: Callable, case: str) -> None:
    """And the other one is left alone."""
    made: list[str] = []

    def make(rows: list[dict]) -> torch.Tensor:
        made.extend(row["prompt"] for row in rows)
        return torch.full((len(rows), 3, 2, 16, 16), 0.5)

    job = ClipJob("full", {}, tmp_path / "own", Scale(16, 16, 2, 8.0), lambda: nullcontext(make), 1)
    first = make_clips(PROMPTS, job)
    path = Path(first["path"][0])
    manifest, preview = path.with_suffix(".json"), Path(first["preview_path"][0])
    content = json.loads(manifest.read_text())
    manifest.write_bytes(MANIFESTS[case])
    again = unchanged(lambda: make_clips(PROMPTS, job), manifest, path, preview)
    assert made == ["a cat", "a dog", "a cat"]
    assert again["path"].tolist() == first["path"].tolist()
    assert json.loads(manifest.read_text())["key"] == content["key"]
