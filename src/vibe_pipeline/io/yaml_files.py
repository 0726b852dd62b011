"""Reading our own YAML: safely, a key only once, errors on one line."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from vibe_pipeline.io.errors import not_utf8, one_line


class _Strict(yaml.SafeLoader):
    """Plain values only; a key that stands twice is refused, as the first would be lost in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """The mapping, its keys all different."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = next((key for i, key in enumerate(keys) if key in keys[:i]), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def yaml_fault(error: BaseException, text: str = "") -> str:
    """Why a text is not YAML, on one line, with the place: `line 4, column 1: tabs are not allowed in YAML; …`.

    Args:
        error: What was raised, by PyYAML or by Kedro, which counts lines from 0 and does not say what is wrong.
        text: What was read, to look for a tab in the line.
    """
    told = error if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark else error.__cause__
    if not isinstance(told, yaml.MarkedYAMLError) or told.problem_mark is None:
        return one_line(error, 240)
    line, problem = told.problem_mark.line, one_line(told.problem, 200)
    row = text.split("\n")[line] if line <= text.count("\n") else ""
    if "\t" in row[: len(row) - len(row.lstrip())] or "'\\t'" in problem:
        problem = "tabs are not allowed in YAML; use spaces"
    return f"line {line + 1}, column {told.problem_mark.column + 1}: {problem}"


def read_yaml(path: Path, name: str) -> list[dict[str, Any]]:
    """The list of mappings under the key `name`, and only that.

    Raises:
        ValueError: Not YAML, or another shape; names the file and the place.
    """
    content = read_mapping(path)
    rows = content.get(name)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(
            f"{path}: expected a key `{name}` with a list of {name} under it, not {one_line(repr(rows), 60)}"
        )
    return rows


def read_mapping(path: Path) -> dict[str, Any]:
    """A file of names and values; empty where the file is.

    Raises:
        ValueError: Not YAML, not UTF-8, or no mapping; names the file and the place.
    """
    text = ""
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = yaml.load(text, _Strict) or {}
    except UnicodeDecodeError as error:
        raise ValueError(not_utf8(path)) from error
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as YAML: {yaml_fault(error, text)}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected names and values, not {one_line(repr(content), 60)}")
    return content
