"""Finding training images and their captions in a folder.

Three ways to give captions, after the Hugging Face imagefolder convention: `metadata.csv` or
`metadata.jsonl` with the columns `file_name` (relative to the metadata file) and `text`, in the folder or
in any folder below it; or, beside each image, a text file of the same name. Where an image has both,
the metadata wins.

What spoils one image becomes a row with a `reason`, which the check puts in quarantine; what makes a whole
metadata file doubtful is an error with its name, line and value.
"""

import csv
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

import pandas as pd

from vibe_pipeline.images.folder import Contents, MetadataError, list_contents
from vibe_pipeline.io.errors import absent_columns, bad_byte, not_utf8, one_line
from vibe_pipeline.io.files import is_folder

log = logging.getLogger(__name__)

FILE_COLUMN, CAPTION_COLUMN = "file_name", "text"
MAX_CAPTION_BYTES = 64 * 1024  # far above any caption; keeps a stray huge file out of memory

Entry = tuple[int, Any, Any]  # line number, file name, caption, as the file gives them


class FoundImage(NamedTuple):
    """One image as found; `reason` and `value` say why it cannot be used, empty where nothing is known yet."""

    file_name: str
    path: str
    caption: str = ""
    caption_source: str = ""
    reason: str = ""
    value: str = ""


def find_images(folder: Path, level: int = logging.DEBUG) -> pd.DataFrame:
    """List the images of a folder and of all below it, with their captions, and all that only looks like one.

    Hidden files and those of operating systems are passed over. White space in captions is collapsed to single blanks.
    Nothing is decoded here.

    Args:
        folder: Holds images, with metadata or text files as captions.
        level: Of the log's line on how many there are and what was passed over.

    Returns:
        One row an image, sorted by name, all columns text: file_name (relative to the folder, with /), path,
        caption, caption_source (the file that gave it; empty: none did), and reason and value, empty unless
        the row is refused already: an image in a format that is not read, a video, a caption without an image, a
        linked or unreadable folder, a path that leaves the folder, an absent file, an unreadable caption.

    Raises:
        FileNotFoundError: No such folder, or nothing in it.
        MetadataError: Bad JSON, missing column, not UTF-8, a file listed twice, or two metadata files.
    """
    folder = Path(folder)
    if not is_folder(folder):
        raise FileNotFoundError(f"{one_line(folder)}: no such folder; set data.path to the folder of training images")
    contents = list_contents(folder)
    rows: dict[str, FoundImage] = {}
    for table in contents.tables:
        _add_listed(rows, folder, table)
    _add_beside(rows, folder, contents)
    passed_over = f"; passed over: {contents.passed_over()}" if contents.passed_over() else ""
    if not rows:
        expected = "expected files ending in .png, .jpg, .webp, .avif, .tiff and the like"
        raise FileNotFoundError(f"{one_line(folder)}: no image; {expected}{passed_over}")
    found = pd.DataFrame([rows[name] for name in sorted(rows)], columns=list(FoundImage._fields), dtype="str")
    refused = int((found["reason"] != "").sum())
    checked = len(found) - refused
    said = f"; refused already: {refused}" if refused else ""
    log.log(level, "found %d images to check%s%s", checked, said, passed_over)
    return found


def _add_beside(rows: dict[str, FoundImage], folder: Path, contents: Contents) -> None:
    """Add to `rows` the images that no metadata lists, with their text files, and what is refused."""
    both = [name for name in contents.images if name in rows and name in contents.captions]
    if both:
        log.info("%d images have both metadata and a text file, such as %s: the metadata wins", len(both), both[0])
    for name in contents.images:
        if name not in rows:
            rows[name] = _with_sidecar(folder, name, contents.captions.get(name))
    for name, (reason, value) in contents.refused.items():
        row = rows.get(name, FoundImage(one_line(name), one_line(folder / name)))
        rows[name] = row if row.reason else row._replace(reason=reason, value=value)


def _add_listed(rows: dict[str, FoundImage], folder: Path, table: Path) -> None:
    """Add to `rows` the images that a metadata file lists."""
    lines: dict[str, int] = {}
    source = table.relative_to(folder).as_posix()
    for line, name, text in _entries(table):
        if not isinstance(name, str) or not name.strip():
            raise MetadataError(
                f"{table}, line {line}: {FILE_COLUMN} is {one_line(repr(name))}, not the name of a file"
            )
        row = _located(folder, table.parent, name)
        if row.file_name in rows:
            earlier = f"line {lines[row.file_name]}" if row.file_name in lines else rows[row.file_name].caption_source
            raise MetadataError(
                f"{table}, line {line}: {FILE_COLUMN} {one_line(repr(name))} is listed already: {earlier}"
            )
        lines[row.file_name] = line
        row = row._replace(caption_source=source)
        rows[row.file_name] = row if row.reason else _captioned(row, text, f"line {line}")


def _captioned(row: FoundImage, text: object, where: str) -> FoundImage:
    """The row with its caption, or with the reason why that is none."""
    text = "" if text is None else text
    if not isinstance(text, str):
        return row._replace(reason="caption_not_text", value=one_line(f"{row.caption_source}, {where}: {text!r}"))
    if len(text) > MAX_CAPTION_BYTES:
        return row._replace(reason="caption_too_long", value=f"{row.caption_source}, {where}: {len(text)} characters")
    try:
        text.encode()
    except UnicodeEncodeError:  # JSON may spell half a surrogate pair, which no file can hold
        return row._replace(reason="caption_not_text", value=one_line(f"{row.caption_source}, {where}: {text!r}"))
    if "\0" in text:
        return _with_nul(row, text)
    return row._replace(caption=" ".join(text.split()))


def _with_nul(row: FoundImage, text: str) -> FoundImage:
    return row._replace(reason="caption_not_text", value=one_line(f"{row.caption_source}: {text!r}"))


def _located(folder: Path, parent: Path, name: str) -> FoundImage:
    """The row of a file that is named relative to `parent`; refused where it is outside of `folder` or absent."""
    refused = FoundImage(one_line(name), one_line(parent / name))
    if Path(name).is_absolute() or PureWindowsPath(name).is_absolute():
        return refused._replace(reason="outside_folder", value="an absolute path; give it relative to the metadata")
    try:
        if "\\" in name and not (parent / name).exists():  # written on Windows
            name = PureWindowsPath(name).as_posix()
        relative = Path(os.path.normpath((parent / name).relative_to(folder)))
        target, root = (folder / relative).resolve(), folder.resolve()
        if ".." in relative.parts or not target.is_relative_to(root):
            leads = "through a link" if ".." not in relative.parts else "upwards"
            value = f"leads {leads} to {one_line(target)}; put the image itself into the folder"
            return refused._replace(reason="outside_folder", value=value)
        str(relative).encode()
        row = FoundImage(relative.as_posix(), str(folder / relative))
        if not target.exists():
            return row._replace(reason="missing_file", value="no such file")
        if not target.is_file():
            return row._replace(reason="not_a_file", value="a folder, pipe or device")
    except (OSError, ValueError, RuntimeError) as error:  # null bytes, names too long or not UTF-8, looping links
        return refused._replace(reason="bad_name", value=one_line(f"{name!r}: {error}"))
    return row


def _with_sidecar(folder: Path, name: str, text_file: str | None) -> FoundImage:
    """The row of an image with the caption of its text file, if it has one."""
    row = _located(folder, folder, name)
    if row.reason or text_file is None or not (folder / text_file).is_file():
        return row
    sidecar = folder / text_file
    row = row._replace(caption_source=text_file)
    if not sidecar.resolve().is_relative_to(folder.resolve()):
        return row._replace(reason="outside_folder", value=f"{row.caption_source} leads through a link out of it")
    try:
        with sidecar.open("rb") as file:
            data = file.read(MAX_CAPTION_BYTES + 1)
        if len(data) > MAX_CAPTION_BYTES:
            return row._replace(reason="caption_too_long", value=f"{row.caption_source}: over {len(data) - 1} bytes")
        text = data.decode("utf-8-sig")
        return _with_nul(row, text) if "\0" in text else row._replace(caption=" ".join(text.split()))
    except UnicodeDecodeError as error:
        return row._replace(
            reason="caption_not_utf8", value=f"{row.caption_source}: {bad_byte(error)}; save it as UTF-8"
        )
    except OSError as error:
        return row._replace(reason="caption_unreadable", value=one_line(f"{row.caption_source}: {error.strerror}"))


def _entries(table: Path) -> Iterator[Entry]:
    """The rows of a metadata file."""
    try:
        text = table.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise MetadataError(f"{table} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise MetadataError(not_utf8(table)) from None
    lines = text.split("\n")  # not splitlines, which also breaks at marks that captions may hold
    return _csv_entries(table, lines) if table.suffix == ".csv" else _json_entries(table, lines)


def _csv_entries(table: Path, lines: list[str]) -> Iterator[Entry]:
    reader = csv.reader((f"{line}\n" for line in lines), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if absent := absent_columns((FILE_COLUMN, CAPTION_COLUMN), header):
            raise MetadataError(f"{table}, line 1: {absent}")
        if twice := [name for name in (FILE_COLUMN, CAPTION_COLUMN) if header.count(name) > 1]:
            raise MetadataError(f"{table}, line 1: the column {twice[0]} stands twice: {one_line(', '.join(header))}")
        file_at, caption_at = header.index(FILE_COLUMN), header.index(CAPTION_COLUMN)
        for values in reader:
            if not any(value.strip() for value in values):
                continue
            if len(values) != len(header):
                raise MetadataError(
                    f"{table}, line {reader.line_num}: {len(values)} values for {len(header)} columns; captions with "
                    f"commas need quotes: {one_line(','.join(values))!r}"
                )
            yield reader.line_num, values[file_at], values[caption_at]
    except csv.Error as error:
        line = reader.line_num
        raise MetadataError(f"{table}, line {line}: {error}: {one_line(lines[line - 1])!r}") from None


def _json_entries(table: Path, lines: list[str]) -> Iterator[Entry]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise MetadataError(f"{table}, line {number}: not JSON ({error}): {one_line(line)!r}") from None
        if not isinstance(record, dict):
            raise MetadataError(f"{table}, line {number}: not an object with names and values: {one_line(line)!r}")
        if absent := absent_columns((FILE_COLUMN, CAPTION_COLUMN), list(record)):
            raise MetadataError(f"{table}, line {number}: {absent}: {one_line(line)!r}")
        yield number, record[FILE_COLUMN], record[CAPTION_COLUMN]
