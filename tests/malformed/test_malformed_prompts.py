"""Files of prompts: the message names file and line, and no image outside of the file's folder is taken."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.generation.prompts import load_prompts

FRAMED = "prompt,first_frame\n"


def framed(name: object) -> str:
    return json.dumps({"prompt": "a cat", "first_frame": name})


# Name, content, and what the message names beside the file.
FILES: dict[str, tuple[str, bytes | str, str]] = {
    "0 bytes txt": ("p.txt", "", "no prompts"),
    "0 bytes csv": ("p.csv", "", "cannot be read as CSV"),
    "0 bytes jsonl": ("p.jsonl", "", "no prompts"),
    "header alone": ("p.csv", "prompt\n", "no prompts"),
    "another ending": ("p.yaml", "- a cat\n", ".txt, .csv or .jsonl"),
    "latin-1": ("p.txt", b"a cat\ncaf\xe9\n", "0xe9"),
    "UTF-16": ("p.csv", "prompt\na cat\n".encode("utf-16"), "UTF-8"),
    "latin-1 jsonl": ("p.jsonl", b'{"prompt": "caf\xe9"}', "0xe9"),
    "NUL": ("p.txt", "a cat\na\0dog\n", "line 2"),
    "NUL in csv": ("p.csv", "prompt\na cat\na\0dog\n", "line 3"),
    "NUL in jsonl": ("p.jsonl", '{"prompt": "a\\u0000b"}', "line 1"),
    "half a surrogate": ("p.jsonl", '{"prompt": "a \\ud800"}', "line 1"),
    "escape sequence": ("p.txt", "a \x1b[31mcat\n", "x1b"),
    "no letter": ("p.txt", "a cat\n---\n", "line 2"),
    "twice": ("p.txt", "a cat\na dog\na  cat\na cat\n", "line 4"),
    "missing value": ("p.csv", "prompt,note\na cat,x\n,y\n", "line 3"),
    "semicolons": ("p.csv", "prompt;note\na cat;x\n", "it has prompt;note"),
    "no column": ("p.csv", "text\na cat\n", "line 2"),
    "column twice": ("p.csv", "prompt,prompt\na cat,a dog\n", "prompt"),
    "comma without quotes": ("p.csv", "prompt\na cat, running\na dog, walking\n", "line 2"),
    "comma in a later row": ("p.csv", "prompt\na cat\na dog, running\n", "line 3"),
    "too few values": ("p.csv", "first_frame,prompt\na.png,a cat\na.png\n", "line 3"),
    "quote open": ("p.csv", 'prompt\n"a cat\n', "EOF"),
    "not JSON": ("p.jsonl", '{"prompt": "a"}\na dog\n', "line 2"),
    "JSON list": ("p.jsonl", '[["a cat"]]', "line 1"),
    "JSON number": ("p.jsonl", '{"prompt": 7}', "line 1"),
    "JSON nested": ("p.jsonl", "[" * 60_000, "line 1"),
    "frame upwards": ("p.csv", f"{FRAMED}a cat,../secret.png\n", "'../secret.png' leaves"),
    "frame absolute": ("p.csv", f"{FRAMED}a cat,/etc/passwd\n", "'/etc/passwd' leaves"),
    "frame linked": ("p.csv", f"{FRAMED}a cat,link.png\n", "'link.png' leaves"),
    "frame not there": ("p.csv", f"{FRAMED}a cat,gone.png\n", "'gone.png'"),
    "frame empty": ("p.csv", f"{FRAMED}a cat,\n", "line 2"),
    "frame for one": ("p.jsonl", framed("a.png") + '\n{"prompt": "a dog"}', "line 1"),
    "frame a list": ("p.jsonl", framed(["a.png"]), "['a.png']"),
    "frame with NUL": ("p.jsonl", framed("a\0.png"), "line 1"),
    "frame half a surrogate": ("p.jsonl", framed("\ud800.png"), "line 1"),
    "frame name too long": ("p.jsonl", framed("n" * 300), "line 1"),
    "frame a folder": ("p.jsonl", framed("sub"), "'sub'"),
    "frame no image": ("p.jsonl", framed("text.png"), "line 1"),
    "frame cut": ("p.jsonl", framed("cut.png"), "line 1"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Beside the file of prompts: an image, a link out, half an image, and text under an image's name."""
    home = tmp_path / "prompts"
    (home / "sub").mkdir(parents=True)
    for place in ("prompts/a.png", "secret.png"):
        Image.effect_noise((64, 48), 60).save(tmp_path / place)
    (home / "link.png").symlink_to("../secret.png")
    (home / "text.png").write_text("a red ball")
    (home / "cut.png").write_bytes((home / "a.png").read_bytes()[:500])
    return home


@pytest.mark.parametrize("case", FILES)
def test_a_file(folder: Path, refused: Callable, case: str) -> None:
    name, content, named = FILES[case]
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    refused(lambda: load_prompts(GenerationParams(prompts=path)), str(path), named)


def test_a_file_that_is_not_there(tmp_path: Path, refused: Callable) -> None:
    refused(lambda: load_prompts(GenerationParams(prompts=tmp_path / "gone.txt")), "gone.txt")


def test_a_folder_is_no_file(tmp_path: Path, refused: Callable) -> None:
    (tmp_path / "p.txt").mkdir()
    refused(lambda: load_prompts(GenerationParams(prompts=tmp_path / "p.txt")), "p.txt")
