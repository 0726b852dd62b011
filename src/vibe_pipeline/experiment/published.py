"""What others report, shown beside our figures and never mixed with them."""

from pathlib import Path
from typing import Any

from vibe_pipeline.io.errors import one_line
from vibe_pipeline.io.yaml_files import read_mapping, read_yaml


def load_published(path: Path) -> dict[str, Any]:
    """Read the published figures.

    Raises:
        ValueError: A row lacks its source or reliability; the message names file and row.
    """
    content = read_mapping(path)
    for part in read_yaml(path, "tables") if "tables" in content else ():
        rows = part.get("rows", [])
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ValueError(f"{path}: `rows` of a table should be a list of rows, not {one_line(repr(rows), 60)}")
        for row in rows:
            if not (row.get("source") and row.get("reliability")):
                raise ValueError(f"{path}: the row {row.get('method')!r} needs both `source` and `reliability`")
            values = row.get("values", {})
            if not isinstance(values, dict) or not all(isinstance(v, int | float | None) for v in values.values()):
                raise ValueError(
                    f"{path}: the row {row.get('method')!r} needs numbers by column as `values`, not "
                    f"{one_line(repr(values), 60)}"
                )
    return content
