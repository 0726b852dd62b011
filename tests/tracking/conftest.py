"""A store made once, and open parent runs in it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from vibe_pipeline import tracking
from vibe_pipeline.experiment.run import TrackingParams
from vibe_pipeline.io.manifests import AdapterManifest
from vibe_pipeline.tracking import start_parent

VARIABLES = (
    tracking.PARENT,
    tracking.URI,
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
)


@pytest.fixture(autouse=True)
def no_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start without a parent, and put the environment back afterwards."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder, whose store is created once: that takes seconds."""
    return tmp_path_factory.mktemp("project")


@pytest.fixture
def client(project: Path) -> MlflowClient:
    """Of the project's store."""
    return MlflowClient(f"sqlite:///{project}/mlflow.db")


@pytest.fixture
def start(project: Path, no_parent: None) -> Callable[..., str]:
    """Opens a parent run in the project's store."""

    def run(params: dict[str, Any] | None = None, **tags: str) -> str:
        return start_parent(TrackingParams(), project, "base: all", tags, params or {})

    return run


@pytest.fixture
def parent(client: MlflowClient, start: Callable[..., str]) -> tuple[MlflowClient, str]:
    """An open parent run."""
    sizes = {"native": {"height": 64}, "target": {"height": 128}}
    params = {"model": {"path": "x" * 900} | sizes, "generation": {"seeds": [0, 1]}}
    return client, start(params, git_commit="abc")


@pytest.fixture
def children(client: MlflowClient) -> Callable[[str], list[Run]]:
    """The children of a parent run."""

    def find(parent_id: str) -> list[Run]:
        experiment = client.get_run(parent_id).info.experiment_id
        return list(client.search_runs([experiment], f"tags.mlflow.parentRunId = '{parent_id}'"))

    return find


@pytest.fixture
def manifest() -> Callable[..., AdapterManifest]:
    """Writes an adapter's files, and returns what training would."""

    def write(folder: Path, reused: bool = False) -> AdapterManifest:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "weights.safetensors").write_bytes(b"weights")
        pd.DataFrame({"step": [10, 20], "loss": [2.0, 1.0]}).to_csv(folder / "losses.csv", index=False)
        return AdapterManifest(
            name="full",
            key="k1",
            path=folder / "weights.safetensors",
            losses=folder / "losses.csv",
            final_loss=1.0,
            held_out_loss=1.5,
            seconds=7.0,
            reused=reused,
        )

    return write
