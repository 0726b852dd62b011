"""Finding images and captions: the three conventions, and every way in which they are got wrong."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from vibe_pipeline.images import MetadataError, find_images

Folder = Callable[..., Path]
BYTES = b"not decoded here"


def lines(*records: dict) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


CONVENTIONS = {
    "txt": {"a.txt": "a red\n  ball \n"},
    "csv": {"metadata.csv": "file_name,text\na.png,a red ball\n"},
    "csv with quotes, BOM, CRLF": {"metadata.csv": '\ufefftext,id,file_name\r\n"a red\r\nball",7,a.png\r\n\r\n'},
    "jsonl": {"metadata.jsonl": lines({"file_name": "a.png", "text": "a red ball", "id": 7}) + "\n\n"},
    "name with dots": {"metadata.jsonl": lines({"file_name": "./b/../a.png", "text": "a red ball"})},
}


@pytest.mark.parametrize("files", CONVENTIONS.values(), ids=CONVENTIONS)
def test_conventions(folder: Folder, files: dict) -> None:
    found = find_images(folder({"a.png": BYTES, **files}))
    assert found.columns.tolist() == ["file_name", "path", "caption", "caption_source", "reason", "value"]
    (row,) = found.itertuples(index=False)
    expected_source = next(iter(files))
    assert (row.file_name, row.caption, row.caption_source, row.reason) == ("a.png", "a red ball", expected_source, "")
    assert Path(row.path).read_bytes() == BYTES


def test_recursive_sorted_and_hidden_left_out(folder: Folder) -> None:
    names = ["z.JPG", "b/c/d.webp", "b/a.jpeg", "été/日本.png"]
    files = dict.fromkeys([*names, ".hidden.png", ".cache/x.png", "readme.md", "Thumbs.db"], BYTES)
    captions = {"été/日本.txt": "mont Fuji 富士", "b/metadata.csv": "file_name,text\na.jpeg,b's a"}
    found = find_images(folder(files | captions))
    assert found["file_name"].tolist() == sorted(names)
    assert found.set_index("file_name")["caption"].to_dict() == {
        "z.JPG": "",
        "b/c/d.webp": "",
        "b/a.jpeg": "b's a",
        "été/日本.png": "mont Fuji 富士",
    }


def test_metadata_wins_over_text_files_and_says_so(folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    table = {"metadata.csv": "file_name,text\na.png,from the table\n"}
    found = find_images(folder({"a.png": BYTES, "a.txt": "from a.txt", "b.png": BYTES, "b.txt": "from b.txt", **table}))
    assert found["caption"].tolist() == ["from the table", "from b.txt"]
    assert "1 images have both metadata and a text file, such as a.png: the metadata wins" in caplog.text


BAD_TABLES = {
    "json": ("metadata.jsonl", '{"file_name": "a.png", "text": "x"}\n{"file_name": oops}\n', "line 2", "oops"),
    "json list": ("metadata.jsonl", "[1, 2]\n", "line 1", "[1, 2]"),
    "json nested deep": ("metadata.jsonl", "[" * 100_000, "line 1", "[[["),
    "json without text": ("metadata.jsonl", '{"file_name": "a.png", "caption": "x"}\n', "line 1", "caption"),
    "json without file_name": ("metadata.jsonl", '{"file": "a.png", "text": "x"}\n', "line 1", "a.png"),
    "file_name no text": ("metadata.jsonl", '{"file_name": 7, "text": "x"}\n', "line 1", "7"),
    "file_name empty": ("metadata.csv", "file_name,text\n ,x\n", "line 2", "' '"),
    "csv empty": ("metadata.csv", "", "line 1", "file_name"),
    "csv without column": ("metadata.csv", "file_name,caption\na.png,x\n", "line 1", "caption"),
    "csv with column twice": ("metadata.csv", "file_name,text,text\na.png,x,y\n", "line 1", "text, text"),
    "csv comma unquoted": ("metadata.csv", "file_name,text\na.png,red, round\n", "line 2", "red, round"),
    "csv row short": ("metadata.csv", "file_name,text\na.png\n", "line 2", "a.png"),
    "csv quote open": ("metadata.csv", 'file_name,text\na.png,"red\n', "line 3", "unexpected end"),
    "twice": ("metadata.csv", "file_name,text\na.png,x\nb.png,y\n./a.png,z\n", "line 4", "line 2"),
    "latin-1": ("metadata.csv", b"file_name,text\na.png,caf\xe9\n", "line 2", "0xe9"),
    "utf-16": ("metadata.jsonl", '{"file_name": "a.png"}'.encode("utf-16"), "line 1", "0xff"),
}


@pytest.mark.parametrize(("name", "content", "line", "value"), BAD_TABLES.values(), ids=BAD_TABLES)
def test_bad_metadata_is_one_clear_line(folder: Folder, name: str, content: bytes, line: str, value: str) -> None:
    with pytest.raises(MetadataError) as caught:
        find_images(folder({"a.png": BYTES, "b.png": BYTES, name: content}))
    message = str(caught.value)
    assert name in message and line in message and value in message
    assert "\n" not in message and len(message) < 500


def test_two_tables(folder: Folder) -> None:
    both = {"metadata.csv": "file_name,text\n", "metadata.jsonl": ""}
    with pytest.raises(MetadataError, match=r"metadata\.csv and .*metadata\.jsonl: two metadata files"):
        find_images(folder(both))
    nested = {"metadata.csv": "file_name,text\nb/a.png,x\n", "b/metadata.csv": "file_name,text\na.png,y\n"}
    (folder({}) / "metadata.jsonl").unlink()
    with pytest.raises(MetadataError, match=r"b/metadata\.csv, line 2: .*a\.png.* listed already: metadata\.csv"):
        find_images(folder({"b/a.png": BYTES, **nested}))


BAD_ROWS = {
    "upwards": ("../secret.png", "x", "outside_folder", "secret.png"),
    "upwards from below": ("b/../../secret.png", "x", "outside_folder", "secret.png"),
    "absolute": ("/etc/hostname", "x", "outside_folder", "absolute"),
    "link": ("link.png", "x", "outside_folder", "secret.png"),
    "through a linked folder": ("linked/secret.png", "x", "outside_folder", "secret.png"),
    "loop": ("loop.png", "x", "bad_name", "loop"),
    "null byte": ("a\0.png", "x", "bad_name", "null"),
    "too long": ("n" * 5000, "x", "bad_name", "nnn"),
    "surrogate": ("\ud800.png", "x", "bad_name", "ud800"),
    "absent": ("absent.png", "x", "missing_file", "no such file"),
    "folder": ("b", "x", "not_a_file", "folder"),
    "caption number": ("a.png", 7, "caption_not_text", "metadata.jsonl, line 1: 7"),
    "caption surrogate": ("a.png", "\ud800", "caption_not_text", "ud800"),
    "caption huge": ("a.png", "x" * 100_000, "caption_too_long", "100000"),
}


@pytest.mark.parametrize(("name", "text", "reason", "value"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_one_bad_row_is_refused_alone(folder: Folder, name: str, text: object, reason: str, value: str) -> None:
    records = lines({"file_name": name, "text": text}, {"file_name": "good.png", "text": "good"})
    root = folder({"a.png": BYTES, "good.png": BYTES, "b/x.md": "", "metadata.jsonl": records})
    (root.parent / "secret.png").write_bytes(BYTES)
    (root / "link.png").symlink_to(root.parent / "secret.png")
    (root / "linked").symlink_to(root.parent)
    (root / "loop.png").symlink_to(root / "loop.png")
    found = find_images(root)
    assert found.set_index("file_name").loc["good.png", "caption"] == "good"
    shown = name.encode("utf-8", "backslashreplace").decode()[:20]
    (row,) = found[found["file_name"].str.startswith(shown)].to_dict("records")
    assert row["reason"] == reason and value in row["value"]
    assert "\n" not in row["value"] and len(row["value"]) < 300


BAD_SIDECARS = {
    "latin-1": (b"one\ncaf\xe9", "caption_not_utf8", "line 2: byte 0xe9"),
    "huge": (b"x" * 100_000, "caption_too_long", "a.txt"),
}


@pytest.mark.parametrize(("content", "reason", "value"), BAD_SIDECARS.values(), ids=BAD_SIDECARS)
def test_bad_text_file(folder: Folder, content: bytes, reason: str, value: str) -> None:
    (row,) = find_images(folder({"a.png": BYTES, "a.txt": content})).itertuples(index=False)
    assert row.reason == reason and value in row.value and "a.txt" in row.value


def test_links_out_of_the_folder_are_not_read(folder: Folder) -> None:
    root = folder({"a.png": BYTES})
    (root.parent / "secret.txt").write_text("secret")
    (root / "a.txt").symlink_to(root.parent / "secret.txt")
    (root / "b.png").symlink_to(root.parent / "secret.txt")
    found = find_images(root)
    assert found["reason"].tolist() == ["outside_folder", "outside_folder"]
    assert not found["caption"].str.contains("secret").any()


def test_file_name_that_is_not_utf8(folder: Folder) -> None:
    root = folder({"good.png": BYTES, "good.txt": "good"})
    (root / os.fsdecode(b"caf\xe9.png")).write_bytes(BYTES)
    bad, good = find_images(root).itertuples(index=False)
    assert (bad.file_name, bad.reason) == ("caf\\udce9.png", "bad_name")
    assert good.caption == "good"


def test_nothing_to_find(folder: Folder, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent: no such folder; set data\.path"):
        find_images(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match=r"images: no image; expected files ending in \.png"):
        find_images(folder({"a.md": BYTES, "._a.png": BYTES}))
