"""Metadata of a folder of images: a file that is doubtful as a whole is refused, a bad row is put in quarantine."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vibe_pipeline.images import check_images, find_images

CSV, LINES = "metadata.csv", "metadata.jsonl"
# Name, content, and what the message names beside the file.
TABLES: dict[str, tuple[str, bytes | str, str]] = {
    "0 bytes": (CSV, "", "file_name"),
    "no header": (CSV, "good.png,a ball\n", "good.png, a ball"),
    "no column of names": (CSV, "file,text\ngood.png,a ball\n", "file, text"),
    "no column of captions": (CSV, "file_name,caption\ngood.png,a ball\n", "caption"),
    "column twice": (CSV, "file_name,file_name,text\ngood.png,good.png,a\n", "file_name, file_name"),
    "semicolons": (CSV, "file_name;text\ngood.png;a ball\n", "file_name;text"),
    "tabs": (CSV, "file_name\ttext\ngood.png\ta ball\n", "line 1"),
    "too many values": (CSV, "file_name,text\ngood.png,red, round\n", "line 2"),
    "too few values": (CSV, "file_name,text\ngood.png\n", "line 2"),
    "quote open": (CSV, 'file_name,text\ngood.png,"a ball\n', "line 3"),
    "name empty": (CSV, 'file_name,text\n"",a ball\n', "line 2"),
    "listed twice": (CSV, "file_name,text\ngood.png,a\n./good.png,b\n", "line 3"),
    "latin-1": (CSV, b"file_name,text\ngood.png,caf\xe9\n", "0xe9"),
    "UTF-16": (CSV, "file_name,text\n".encode("utf-16"), "0xff"),
    "parquet": (CSV, b"PAR1\x15\x04\x15\xff\xfe", "0xff"),
    "not JSON": (LINES, "file_name: good.png\n", "line 1"),
    "JSON cut": (LINES, '{"file_name": "good.png", "te', "line 1"),
    "JSON over lines": (LINES, '[{"file_name": "good.png",\n"text": "a"}]', "line 1"),
    "JSON list": (LINES, '["good.png", "a ball"]\n', "line 1"),
    "JSON number": (LINES, "7\n", "line 1: not an object"),
    "JSON nested": (LINES, '{"a":' * 50_000, "line 1"),
    "JSON names": (LINES, '{"file_name": ["good.png"], "text": "a"}\n', "['good.png']"),
    "JSON null name": (LINES, '{"file_name": null, "text": "a"}\n', "None"),
    "JSON without text": (LINES, '{"file_name": "good.png"}\n', "no column text; it has file_name"),
    "JSON huge number": (LINES, f'{{"file_name": {"9" * 5000}, "text": "a"}}\n', "line 1"),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with an image, and one beside it that must not be read."""
    (tmp_path / "images").mkdir()
    for place in ("images/good.png", "secret.png"):
        Image.effect_noise((64, 48), 60).save(tmp_path / place)
    return tmp_path / "images"


@pytest.mark.parametrize("case", TABLES)
def test_a_table(root: Path, refused: Callable, case: str) -> None:
    name, content, named = TABLES[case]
    (root / name).write_bytes(content.encode() if isinstance(content, str) else content)
    refused(lambda: find_images(root), name, named)


# The row, its reason, and what the value names.
ROWS: dict[str, tuple[dict[str, Any], str, str]] = {
    "upwards": ({"file_name": "../secret.png", "text": "a"}, "outside_folder", "secret.png"),
    "up and down": ({"file_name": "x/../../images/../secret.png", "text": "a"}, "outside_folder", "upwards"),
    "absolute": ({"file_name": "/etc/passwd", "text": "a"}, "outside_folder", "absolute"),
    "link": ({"file_name": "link.png", "text": "a"}, "outside_folder", "secret.png"),
    "linked folder": ({"file_name": "up/secret.png", "text": "a"}, "outside_folder", "link"),
    "not there": ({"file_name": "gone.png", "text": "a"}, "missing_file", "no such file"),
    "the folder": ({"file_name": ".", "text": "a"}, "not_a_file", "folder"),
    "an address": ({"file_name": "https://host/a.png", "text": "a"}, "missing_file", "no such file"),
    "NUL in the name": ({"file_name": "go\0od.png", "text": "a"}, "bad_name", "null"),
    "name too long": ({"file_name": "n" * 300 + ".png", "text": "a"}, "bad_name", "nnn"),
    "not an image": ({"file_name": LINES, "text": "a"}, "not_an_image", "file_na"),
    "caption a number": ({"file_name": "good.png", "text": 7}, "caption_not_text", "7"),
    "caption a list": ({"file_name": "good.png", "text": ["a"]}, "caption_not_text", "['a']"),
    "caption null": ({"file_name": "good.png", "text": None}, "caption_empty", LINES),
    "caption half a surrogate": ({"file_name": "good.png", "text": "a\ud800"}, "caption_not_text", "ud800"),
    "caption with NUL": ({"file_name": "good.png", "text": "a\0b"}, "caption_not_text", "x00"),
}


@pytest.mark.parametrize("case", ROWS)
def test_a_row(root: Path, unchanged: Callable, case: str) -> None:
    row, reason, named = ROWS[case]
    (root / LINES).write_text(json.dumps(row))
    (root / "link.png").symlink_to("../secret.png")
    (root / "up").symlink_to("..")
    _, quarantine = unchanged(lambda: check_images(find_images(root), [(32, 40)], 20))
    wanted = quarantine[~quarantine["file_name"].isin({"good.png", "link.png", "up"} - {row["file_name"]})]
    (found,) = wanted.itertuples(index=False)
    assert found.reason == reason and named in found.value, found
    assert "\n" not in found.value and len(found.value) < 400
