"""Reading our own YAML: safely, a key only once, errors on one line."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from vibe_pipeline.io.errors import one_line


class _Strict(yaml.SafeLoader):
    """Plain values only; a key that stands twice is refused, as the first would be lost in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """The mapping, its keys all different."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = next((key for i, key in enumerate(keys) if key in keys[:i]), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


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
    try:
        content = yaml.load(path.read_text(encoding="utf-8-sig"), _Strict) or {}
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as YAML: {one_line(error, 240)}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected names and values, not {one_line(repr(content), 60)}")
    return content
