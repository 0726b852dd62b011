"""The store of runs: what is wrong with it is told at the start, each with its reason and the way out."""

import http.server
import os
import re
import shlex
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from vibe_pipeline import tracking
from vibe_pipeline.experiment.run import TrackingParams
from vibe_pipeline.tracking import start_parent


def start(folder: Path, uri: str = "sqlite:///mlflow.db", experiment: str = "mine") -> str:
    return start_parent(TrackingParams(uri=uri, experiment=experiment), folder, "n", {}, {"a": 1})


def test_a_deleted_experiment_is_named_and_comes_back_by_the_command_that_is_said(project: Path) -> None:
    start(project, experiment="gone")
    os.environ.pop(tracking.PARENT)
    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    client.delete_experiment(client.get_experiment_by_name("gone").experiment_id)
    with pytest.raises(ValueError, match=r"tracking.experiment 'gone' was deleted") as caught:
        start(project, experiment="gone")
    assert "tracking.uri" not in str(caught.value) and "--params=tracking.experiment=NAME" in str(caught.value)
    command = re.search(r"`(.+)`", str(caught.value))[1]
    variable, _, rest = command.partition(" ")
    name, _, value = variable.partition("=")
    program = [str(Path(sys.executable).with_name("mlflow")), *shlex.split(rest)[1:]]
    done = subprocess.run(program, env=os.environ | {name: value}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert start(project, experiment="gone")


def a_folder(folder: Path) -> None:
    (folder / "x.db").mkdir()


def a_text(folder: Path) -> None:
    (folder / "x.db").write_bytes(b"not a database " * 500)


def a_file_as_folder(folder: Path) -> None:
    (folder / "x.db").write_text("")


@pytest.mark.parametrize(
    ("uri", "prepare", "said"),
    [
        ("sqlite:///x.db", a_folder, "check that it is not a folder"),
        ("sqlite:///x.db", a_text, "SQLite did not write it"),
        ("sqlite:///x.db/y.db", a_file_as_folder, "its folder cannot be made"),
        ("sqlite:////proc/x.db", None, "rights of the folder"),
        ("sqlite://x.db", None, "it names no file: sqlite:///mlflow.db"),
        ("sqlite://", None, "it names no file"),
        ("sqllite:///x.db", None, "not known to MLflow.*did you mean 'sqlite'"),
        ("htp://host:5000", None, "did you mean 'http'"),
        ("team:5000", None, "a server is http://HOST:PORT"),
        ("", None, "a server is http://HOST:PORT"),
        ("mlruns", None, "no longer keeps runs in a folder: give sqlite:///mlflow.db"),
        ("mysql://me:hunter2@host/x", None, "database driver"),
        ("http://nosuch.invalid:1", None, "no machine of that name"),
    ],
)
def test_an_address_that_cannot_work(tmp_path: Path, uri: str, prepare: Callable | None, said: str) -> None:
    """In seconds: MLflow alone tries two minutes to open a file that cannot be opened."""
    if prepare:
        prepare(tmp_path)
    begun = time.monotonic()
    with pytest.raises(ConnectionError, match=said) as caught:
        start(tmp_path, uri)
    message = str(caught.value)
    assert message.startswith("tracking.uri '") and "\n" not in message and "hunter2" not in message
    assert time.monotonic() - begun < 40 and tracking.PARENT not in os.environ


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A store's file."""
    folder = tmp_path_factory.mktemp("made")
    start(folder)
    os.environ.pop(tracking.PARENT)
    return (folder / "mlflow.db").read_bytes()


def test_a_store_of_another_version(tmp_path: Path, made: bytes) -> None:
    (tmp_path / "mlflow.db").write_bytes(made)
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
    with pytest.raises(ConnectionError, match=r"another version of MLflow.*`mlflow db upgrade sqlite:///mlflow.db`"):
        start(tmp_path)


def test_a_store_that_another_program_holds(tmp_path: Path, made: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mlflow.db").write_bytes(made)
    monkeypatch.setattr("vibe_pipeline.tracking.store.LOCK_SECONDS", 0.2)
    holder = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(ConnectionError, match="another program holds it"):
        start(tmp_path)
    holder.execute("ROLLBACK")
    holder.close()
    assert start(tmp_path)


def test_artefacts_that_cannot_be_kept_are_found_out_at_the_start(tmp_path: Path, made: bytes) -> None:
    """Not by the first adapter, hours later; and the run that was opened is closed."""
    (tmp_path / "mlflow.db").write_bytes(made)
    (tmp_path / "mlartifacts").write_text("a file where the folder should be")
    with pytest.raises(ConnectionError, match=r"takes runs but not their artefacts, at .*mlartifacts"):
        start(tmp_path, experiment="fresh")
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("fresh").experiment_id])
    assert [run.info.status for run in runs] == ["FAILED"] and tracking.PARENT not in os.environ


@pytest.fixture
def answering() -> Iterator[Callable[[int, bytes], str]]:
    """A server that answers everything with one status and body; its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        status, body = 200, b""

        def do_GET(self) -> None:
            self.send_response(self.status)
            self.end_headers()
            self.wfile.write(self.body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def answer(status: int, body: bytes) -> str:
        Handler.status, Handler.body = status, body
        return f"http://127.0.0.1:{server.server_port}"

    yield answer
    server.shutdown()


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, b"login", "MLFLOW_TRACKING_USERNAME"),
        (403, b"no", "ask for the right to write into experiment 'mine'"),
        (403, b"Invalid Host header - possible DNS rebinding attack detected", "--allowed-hosts"),
        (404, b"<html>", "not MLflow's: check port and path"),
        (200, b"<html>", "not MLflow's: check port and path"),
        (500, b"", "the server itself fails"),
    ],
)
def test_a_server_that_refuses(answering, tmp_path: Path, status: int, body: bytes, said: str) -> None:
    with pytest.raises(ConnectionError, match=said):
        start(tmp_path, answering(status, body))


def test_a_server_without_encryption(answering, tmp_path: Path) -> None:
    with pytest.raises(ConnectionError, match="is it http:// instead of https://"):
        start(tmp_path, answering(200, b"").replace("http:", "https:"))
