"""Errors on one line: what libraries say over many lines, cut to what names the place and the value."""

import re
from collections.abc import Sequence

from pydantic import ValidationError

from vibe_pipeline.masking import mask

SHOWN = 3
_SECRET = re.compile(r"token|password|passwd|secret|credential|api_?key", re.IGNORECASE)


def brief(value: object, limit: int = 160) -> str:
    """A value on one line, cut to `limit` characters, safe to write as UTF-8."""
    text = " ".join(str(value).split()).encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


def absent_columns(needed: Sequence[str], have: Sequence[str]) -> str:
    """What a table lacks and what it has instead: `has no column text; it has caption`. Empty if it lacks none."""
    lacking = [name for name in needed if name not in have]
    if not lacking:
        return ""
    hint = " (columns are separated by commas)" if len(have) == 1 and set(have[0]) & set(";\t|") else ""
    return f"has no column {', '.join(lacking)}; it has {brief(', '.join(have)) or 'none'}{hint}"


def refusal(error: ValidationError, prefix: str = "") -> str:
    """A pydantic error on one line: dotted field, what is wrong, the value; credentials are never shown.

    Args:
        error: The error.
        prefix: What the fields lie under, such as `model`.
    """
    faults = error.errors(include_url=False, include_context=False)
    shown = [_fault((prefix, *fault["loc"]), fault["type"], fault["msg"], fault["input"]) for fault in faults[:SHOWN]]
    return "; ".join(shown) + (f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else "")


def _fault(place: Sequence[object], kind: str, message: str, value: object) -> str:
    field = brief(".".join(str(part) for part in place if part != ""), 80)
    said = brief(mask(message.removeprefix("Value error, ")), 240)
    # A message of ours names its values; what is missing has none.
    if kind in ("value_error", "missing"):
        return f"{field}: {said}" if field else said
    seen = "***" if _SECRET.search(field) else brief(mask(repr(value)), 60)
    return f"{field}: {said}, not {seen}"
