"""A remote tracking server: one line; told at once if it is down; its password stays out of everything."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from vibe_pipeline import tracking
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.run import TrackingParams
from vibe_pipeline.tracking import end_parent, redact, start_parent, tracked_arm

PASSWORD = "hunter2secret"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """MLflow's own server application, in a thread: host:port, and its folder."""
    folder = tmp_path_factory.mktemp("server")
    variables = {
        "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{folder}/server.db",
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(folder / "artifacts"),
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        from mlflow.server import app
        from werkzeug.serving import make_server

        running = make_server("127.0.0.1", 0, app, threaded=True)
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{running.server_port}", folder
        running.shutdown()


def test_a_server_is_one_line_and_its_password_is_nowhere(server, tmp_path: Path, caplog) -> None:
    address, folder = server
    uri = f"http://me:{PASSWORD}@{address}"
    params = {"data": {"mirror": f"https://user:{PASSWORD}@host/x?size=1"}}
    run_id = start_parent(TrackingParams(uri=uri), tmp_path, "n", {"source": uri}, params)
    with tracked_arm("full", ArmParams(label="A"), {"adapter": "none"}) as arm:
        arm.log([{"flicker": 0.5}])
        (tmp_path / "clip.mp4").write_bytes(b"clip")
        arm.artifact(tmp_path / "clip.mp4", "clips")
    end_parent("FINISHED")
    client = MlflowClient(f"http://{address}")
    assert client.get_run(arm.run_id).data.metrics == {"flicker": 0.5}
    assert client.get_run(run_id).info.status == "FINISHED"
    assert client.get_run(run_id).data.params == {"data.mirror": "https://***@host/x?size=1"}
    assert [p.read_bytes() for p in folder.rglob("clip.mp4")] == [b"clip"]
    written = b"".join(p.read_bytes() for p in folder.rglob("*") if p.is_file())
    assert b"full" in written and PASSWORD.encode() not in written
    assert PASSWORD not in caplog.text
    assert os.environ[tracking.URI] == f"http://{address}"
    assert (os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]) == ("me", PASSWORD)


def test_a_server_that_is_down_is_told_at_once(tmp_path: Path, caplog) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    begun = time.monotonic()
    with pytest.raises(ConnectionError, match=rf"http://\*\*\*@{address}.* cannot be used") as caught:
        start_parent(TrackingParams(uri=f"http://me:{PASSWORD}@{address}"), tmp_path, "n", {}, {})
    assert time.monotonic() - begun < 30
    assert PASSWORD not in str(caught.getrepr(chain=True, showlocals=False)) + caplog.text
    assert tracking.PARENT not in os.environ
    # Only the start is impatient: a training may outlive a server's restart.
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("postgresql+psycopg2://u:p@db:5432/x", "postgresql+psycopg2://***@db:5432/x"),
        ("at 'https://u:p@ss@h/a' and s3://bucket/key", "at 'https://***@h/a' and s3://bucket/key"),
        ("https://h/a?token=abc&page=2", "https://h/a?token=***&page=2"),
        ("sqlite:///mlflow.db", "sqlite:///mlflow.db"),
        ("a@b.c, no address", "a@b.c, no address"),
        ("--token hf_abcDEF0123456789 hf_short", "--token *** hf_short"),
    ],
)
def test_what_looks_like_a_password_is_masked(text: str, masked: str) -> None:
    assert redact(text) == masked
