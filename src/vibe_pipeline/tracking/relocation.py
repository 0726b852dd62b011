"""The runs of a project that was copied or moved: their artefacts are looked for, and new ones put, where it is now.

MLflow stores the place of an experiment's and a run's artefacts as an absolute path in the database, and has no call
that changes it. Relative places do not help: MLflow makes them absolute when it stores them, and a row that was
edited to a relative one follows the folder that a program stands in, so that a notebook or `mlflow ui` started
elsewhere finds nothing and writes where nobody looks. A server's `mlflow-artifacts:` moves, but needs a server. So the
places stay absolute, and are rewritten when the project is found somewhere else. Only a SQLite file inside the project
is touched, and in it only what lies below a folder that its own runs name as their project.
"""

import contextlib
import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

log = logging.getLogger(__name__)

PLACES = (
    ("experiments", "experiment_id", "artifact_location"),
    ("runs", "run_uuid", "artifact_uri"),
    ("logged_models", "model_id", "artifact_location"),
    ("model_versions", "rowid", "source"),
    ("model_versions", "rowid", "storage_location"),
)
"""Table, its key, and the column with an absolute place, as of MLflow 3."""


def follow_project(store: Path, project: Path) -> int:
    """Rewrite the places in a store that was copied or moved with its project.

    Args:
        store: SQLite file, of the current schema.
        project: Where the project is.

    Returns:
        How many places changed.
    """
    store, project = store.resolve(), project.resolve()
    if not store.is_relative_to(project):
        return 0
    with contextlib.closing(sqlite3.connect(store)) as database:
        query = "SELECT DISTINCT value FROM tags WHERE key = 'project' AND value != ?"
        born = [Path(value) for (value,) in database.execute(query, (str(project),))]
        changed = 0
        for old in sorted(born, key=lambda path: len(path.parts), reverse=True):
            if not _is_anothers(database, old, project, store):
                changed += _rewrite(database, old, project)
        database.commit()
    if changed:
        log.info("the project was at %s; %d places of MLflow artefacts are now below %s", born[0], changed, project)
    return changed


def _is_anothers(database: sqlite3.Connection, old: Path, project: Path, store: Path) -> bool:
    """Whether a folder is another project that keeps its runs in this store, not the one that this was copied from.

    The original of a copy has a store of its own; another project has none, and artefacts that are not here.
    """
    if (old / store.relative_to(project)).exists():
        return False
    runs = _below(database, PLACES[1], old, project)
    return any(there.exists() and not here.exists() for _, _, there, here in runs)


def _rewrite(database: sqlite3.Connection, old: Path, project: Path) -> int:
    changed = 0
    for kept in PLACES:
        table, key, column = kept
        for row, place, _, here in list(_below(database, kept, old, project)):
            new = here.as_uri() if place.startswith("file:") else str(here)
            database.execute(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", (new, row))
            changed += 1
    # What tells a run of this project from those of others that share the store.
    database.execute("UPDATE tags SET value = ? WHERE key = 'project' AND value = ?", (str(project), str(old)))
    return changed


def _below(
    database: sqlite3.Connection, kept: tuple[str, str, str], old: Path, project: Path
) -> Iterator[tuple[str | int, str, Path, Path]]:
    """Rows whose place is below the old folder: key, place as stored, as a path, and the same below the project."""
    table, key, column = kept
    for row, place in database.execute(f"SELECT {key}, {column} FROM {table}"):
        path = _local(place or "")
        if path is not None and path.is_relative_to(old) and not path.is_relative_to(project):
            yield row, place, path, project / path.relative_to(old)


def _local(place: str) -> Path | None:
    """A place on this machine, as a path; None for one on a server."""
    parts = urlsplit(place)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return Path(place) if place.startswith("/") else None
