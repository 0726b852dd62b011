"""Opening the store of runs; what is wrong with it is said at once, with its true reason and the way out."""

import contextlib
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from vibe_pipeline.experiment.run import TrackingParams
from vibe_pipeline.io.errors import did_you_mean, one_line
from vibe_pipeline.io.redact import redact, take_credentials
from vibe_pipeline.tracking.relocation import follow_project

RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
SCHEMES = ("sqlite", "http", "https", "postgresql", "mysql", "mssql", "databricks")
FORMS = "a server is http://HOST:PORT, a file sqlite:///mlflow.db"
LOCK_SECONDS = 5.0

REASONS = (
    (
        r"out-of-date database schema",
        "another version of MLflow made its tables: copy the database, then `mlflow db upgrade {uri}`; if that does "
        "not know the version, a newer MLflow made them: use that one, or another store",
    ),
    (
        r"maintenance mode",
        "MLflow no longer keeps runs in a folder: give sqlite:///mlflow.db; `mlflow migrate-filestore` takes the runs "
        "along",
    ),
    (
        r"error code 401",
        "the server wants a user and a password, or other ones: set MLFLOW_TRACKING_USERNAME and "
        "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
    ),
    (r"Invalid Host header", "the server is not to be reached by this name: start it with --allowed-hosts"),
    (
        r"error code 403|PERMISSION_DENIED",
        "the server does not let this user do that: ask for the right to write into experiment {experiment!r}, or "
        "choose another with --params=tracking.experiment=NAME",
    ),
    (r"error code 404|not in a valid JSON", "a server answers there, but not MLflow's: check port and path"),
    (r"Failed to resolve|NameResolution", "there is no machine of that name: check the address"),
    (r"Connection refused", "nothing listens there: start the server, or check the address"),
    (
        r"SSLError|CERTIFICATE",
        "encryption fails: is it http:// instead of https://? A certificate of your own goes into "
        "MLFLOW_TRACKING_SERVER_CERT_PATH",
    ),
    (r"[Tt]imed? ?out", "it does not answer in time: check the address and the way there"),
    (r"too many 5\d\d|error code 5\d\d", "the server itself fails: see its log"),
    (
        r"No module named",
        "the Python package of its database driver is not installed: install it, or name another in the address, as in "
        "postgresql+psycopg2://",
    ),
    (r"database is locked", "another program holds it: end that one, or run again later"),
    (r"not a database", "the file is there, but SQLite did not write it: choose another name"),
    (r"readonly|read-only", "it may not be written: check the rights of the file and its folder"),
    (
        r"unable to open",
        "the file cannot be made or opened there: check that it is not a folder, and the rights of the folder",
    ),
    (r"disk is full|No space left", "the disk is full: free some space, or choose another place"),
)
"""What an error says, and what that means for who runs the pipeline."""


@contextmanager
def opened(tracking: TrackingParams, project: Path) -> Iterator[tuple[MlflowClient, str]]:
    """A client of the store and its address, for first questions: a server that is down is told in seconds.

    A store that was copied or moved with the project is made to follow it.

    Raises:
        ConnectionError: The store cannot be used; names its address, without its password, the reason and the way out.
    """
    try:
        uri = take_credentials(_absolute(tracking.uri, project))
        file = _require_usable(uri)
        with _few_retries():
            client = MlflowClient(uri)
            if file is not None:
                follow_project(file, project)
            yield client, uri
    except (MlflowException, SQLAlchemyError, sqlite3.Error, ImportError) as error:
        # Without its cause: the traceback would show the address whole.
        raise ConnectionError(f"tracking.uri {redact(tracking.uri)!r} cannot be used: {why(error, tracking)}") from None


def why(error: Exception, tracking: TrackingParams) -> str:
    """The reason of an error and the way out, with the error's own words behind."""
    said = redact(one_line(error, 300))
    for pattern, reason in REASONS:
        if re.search(pattern, str(error)):
            shown = redact(tracking.uri)
            return f"{reason.format(uri=shown, experiment=tracking.experiment)} ({said})"
    return said


def _absolute(uri: str, project: Path) -> str:
    """A relative sqlite path would follow the current directory."""
    prefix = "sqlite:///"
    if uri.startswith(prefix) and not uri.startswith("sqlite:////"):
        return f"sqlite:///{(project / uri.removeprefix(prefix)).resolve()}"
    return uri


def _require_usable(uri: str) -> Path | None:
    """Refuse an address that MLflow would try for minutes, or misunderstand; returns the file of a SQLite store."""
    scheme = uri.split(":", 1)[0].split("+", 1)[0]
    if not uri or ("://" in uri and scheme not in (*SCHEMES, "file")):
        raise MlflowException(f"its kind is not known to MLflow; {FORMS}{did_you_mean(scheme, SCHEMES)}")
    if ":" in uri and "://" not in uri and scheme not in ("file", *SCHEMES):
        raise MlflowException(f"it does not say of which kind it is; {FORMS}")
    if scheme != "sqlite":
        return None
    try:
        database = make_url(uri).database
    except ArgumentError:
        database = None
    if not database or database == ":memory:":
        raise MlflowException(
            "it names no file: sqlite:///mlflow.db lies in the project, sqlite:////data/mlflow.db does not"
        )
    _require_writable(Path(database))
    return Path(database)


def _require_writable(file: Path) -> None:
    """MLflow would try for two minutes to open what cannot be opened."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MlflowException(f"its folder cannot be made: {error}") from None
    with contextlib.closing(sqlite3.connect(file, timeout=LOCK_SECONDS, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        database.execute("ROLLBACK")


@contextmanager
def _few_retries() -> Iterator[None]:
    """A server that is down at the start is told in seconds; later requests keep MLflow's patience."""
    before = os.environ.get(RETRIES)
    os.environ.setdefault(RETRIES, "1")
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(RETRIES, None)
