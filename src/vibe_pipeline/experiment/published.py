"""What others report, shown beside our figures and never mixed with them."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vibe_pipeline.io.errors import did_you_mean, one_line
from vibe_pipeline.io.yaml_files import read_mapping, read_yaml

BESIDE = "beside"
_OWN = {BESIDE, "caveats"}
_FIELDS = {"arms", "fit"}


def load_published(path: Path, *below: Path) -> dict[str, Any]:
    """Read the published figures.

    A file with `beside` has no figures: it says which of our arms stand beside the rows of the file below it, by the
    name of the method ({method: {arms: [...], fit: ...}}), and adds its `caveats`.

    Args:
        path: The environment's own.
        below: Files that this one may be laid on, the next one first.

    Raises:
        ValueError: A row lacks its source or reliability, a table or a row names a column that `columns` does not
            describe, or no row is called as `beside` says; the message names file and row.
    """
    content = read_mapping(path)
    if BESIDE in content:
        if not below:
            raise ValueError(f"{path}: `{BESIDE}` needs the figures of a file below it, and there is none")
        return _laid(path, content, load_published(*below))
    known = _columns(path, content)
    for part in read_yaml(path, "tables") if "tables" in content else ():
        _require_known(path, part.get("columns", ()), known, f"the table {part.get('title', '')!r}")
        rows = part.get("rows", [])
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ValueError(f"{path}: `rows` of a table should be a list of rows, not {one_line(repr(rows), 60)}")
        for row in rows:
            _require_row(path, row)
            _require_known(path, row.get("values", ()), known, f"the row {row.get('method')!r}")
    return content


def _columns(path: Path, content: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What the file says of its columns; None where it says nothing of any."""
    known = content.get("columns")
    if known is None or (isinstance(known, dict) and all(isinstance(said, dict) for said in known.values())):
        return known
    raise ValueError(
        f"{path}: `columns` should describe each by its name, as `overall: {{label: Overall, metric: overall6}}`, not "
        f"{one_line(repr(known), 60)}"
    )


def _require_known(path: Path, names: Iterable[object], known: Mapping[str, Any] | None, where: str) -> None:
    for name in names:
        if known is not None and name not in known:
            raise ValueError(f"{path}: {where} names the column {one_line(name, 60)!r}{did_you_mean(name, known)}")


def _require_row(path: Path, row: Mapping[str, Any]) -> None:
    if not (row.get("source") and row.get("reliability")):
        raise ValueError(f"{path}: the row {row.get('method')!r} needs both `source` and `reliability`")
    values = row.get("values", {})
    if not isinstance(values, dict) or not all(isinstance(v, int | float | None) for v in values.values()):
        raise ValueError(
            f"{path}: the row {row.get('method')!r} needs numbers by column as `values`, not "
            f"{one_line(repr(values), 60)}"
        )


def _laid(path: Path, own: Mapping[str, Any], figures: dict[str, Any]) -> dict[str, Any]:
    """The figures with our arms beside them."""
    beside, caveats = own[BESIDE], own.get("caveats", [])
    if strange := [name for name in own if name not in _OWN]:
        raise ValueError(f"{path}: beside `{BESIDE}` only `caveats` may stand, not {one_line(strange[0], 60)!r}")
    if not isinstance(beside, dict) or not isinstance(caveats, list):
        raise ValueError(f"{path}: `{BESIDE}` should be rows by method and `caveats` a list")
    parts = figures.get("tables", [])
    methods = {row["method"] for part in parts for row in part["rows"]}
    for method, said in beside.items():
        if method not in methods:
            hint = did_you_mean(str(method), sorted(methods))
            raise ValueError(f"{path}: no published row is called {one_line(method, 60)!r}{hint}")
        if not isinstance(said, dict) or set(said) - _FIELDS or not isinstance(said.get("arms"), list):
            raise ValueError(f"{path}: the row {method!r} takes `arms`, a list, and `fit`, not {one_line(said, 60)}")
    tables = [part | {"rows": [row | beside.get(row["method"], {}) for row in part["rows"]]} for part in parts]
    return figures | {"tables": tables, "caveats": [*figures.get("caveats", []), *caveats]}
