"""Errors on one line: what libraries say over many lines, cut to what names the place and the value."""

import codecs
import difflib
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from vibe_pipeline.io.redact import redact

SHOWN = 3
_SECRET = re.compile(r"token|password|passwd|secret|credential|api_?key", re.IGNORECASE)


def one_line(value: object, limit: int = 160) -> str:
    """A value on one line, cut to `limit` characters, safe to write as UTF-8."""
    text = " ".join(str(value).split()).encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


def absent_columns(needed: Sequence[str], have: Sequence[str]) -> str:
    """What a table lacks and what it has instead: `has no column text; it has caption`. Empty if it lacks none."""
    lacking = [name for name in needed if name not in have]
    if not lacking:
        return ""
    hint = " (columns are separated by commas)" if len(have) == 1 and set(have[0]) & set(";\t|") else ""
    return f"has no column {', '.join(lacking)}; it has {one_line(', '.join(have)) or 'none'}{hint}"


def did_you_mean(given: object, known: Iterable[object]) -> str:
    """A question that names what is spelt most alike, to end a message with; empty if nothing is."""
    near = difflib.get_close_matches(str(given), [str(name) for name in known], n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def bad_byte(error: UnicodeDecodeError) -> str:
    """Where a text stops being UTF-8: `line 2: byte 0xe9 is not UTF-8`."""
    line = error.object.count(b"\n", 0, error.start) + 1
    return f"line {line}: byte 0x{error.object[error.start]:02x} is not UTF-8"


def not_utf8(path: Path) -> str:
    """What is wrong with a file that could not be read as UTF-8, and a command that converts it."""
    content = path.read_bytes()
    try:
        content.decode("utf-8-sig")
        said = f"{path} is not UTF-8"  # it was, in the meantime
    except UnicodeDecodeError as error:
        said = f"{path}, {bad_byte(error)}"
    encoding = "UTF-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "WINDOWS-1252"
    files = " > ".join(shlex.quote(str(file)) for file in (path, path.with_stem(f"{path.stem}_utf8")))
    return f"{said}; save it as UTF-8, for example `iconv -f {encoding} -t UTF-8 {files}`"


def refusal(error: ValidationError, prefix: str = "", model: type[BaseModel] | None = None) -> str:
    """A pydantic error on one line: dotted field, what is wrong, the value; credentials are never shown.

    Args:
        error: What pydantic raised.
        prefix: What the fields lie under, such as `model`.
        model: What was validated: a field that it does not have is told with the nearest that it has.
    """
    faults = error.errors(include_url=False, include_context=False)
    shown = [
        _unknown_field(prefix, fault["loc"], model)
        if fault["type"] == "extra_forbidden"
        else _fault((prefix, *fault["loc"]), fault["type"], fault["msg"], fault["input"])
        for fault in faults[:SHOWN]
    ]
    return "; ".join(shown) + (f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else "")


def _dotted(place: Iterable[object]) -> str:
    return one_line(".".join(str(part) for part in place if part != ""), 80)


def _unknown_field(prefix: str, place: Sequence[int | str], model: type[BaseModel] | None) -> str:
    owner, known = _dotted((prefix, *place[:-1])), _fields_at(model, place[:-1])
    nearest = did_you_mean(place[-1], known)
    there = f"; it has {one_line(', '.join(known), 240)}" if known and not nearest else ""
    return f"{owner or 'this'} has no field {redact(one_line(repr(place[-1]), 60))}{nearest or there}"


def _fields_at(kind: Any, place: Sequence[int | str]) -> list[str]:
    """The fields of the model that a place leads to; empty if it leads to none."""
    for part in place:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            info = kind.model_fields.get(str(part))
            kind = _inside(info.annotation) if info else None
        else:  # a row of a table, or an item of a list: all are of the kind that comes last but for `...`
            kind = _inside(next((a for a in reversed(get_args(kind)) if a is not ...), None))
    return list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, BaseModel) else []


def _inside(annotation: Any) -> Any:
    """A model, or a container; of an annotation with alternatives such as None, the first that is one."""
    if isinstance(annotation, type) or get_origin(annotation) in (dict, list, tuple):
        return annotation
    kinds = (_inside(a) for a in get_args(annotation))
    return next((k for k in kinds if get_args(k) or (isinstance(k, type) and issubclass(k, BaseModel))), None)


def _fault(place: Sequence[object], kind: str, message: str, value: object) -> str:
    field = _dotted(place)
    said = one_line(redact(message.removeprefix("Value error, ")), 240)
    # A message of ours names its values; what is missing has none.
    if kind in ("value_error", "missing"):
        return f"{field}: {said}" if field else said
    seen = "***" if _SECRET.search(field) else one_line(redact(repr(value)), 60)
    return f"{field}: {said}, not {seen}"
