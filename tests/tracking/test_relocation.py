"""A project that is copied or moved takes its runs along; nothing is written into the place where it was born."""

import hashlib
import os
import shutil
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from vibe_pipeline import tracking
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.run import TrackingParams
from vibe_pipeline.tracking import end_parent, start_parent, tracked_arm
from vibe_pipeline.tracking.models import log_adapter


def run(project: Path, uri: str = "sqlite:///mlflow.db", experiment: str = "vibe_pipeline") -> tuple[str, str]:
    """A run with one arm that keeps a clip; the ids of both."""
    tracking_params = TrackingParams(uri=uri, experiment=experiment)
    parent = start_parent(tracking_params, project, "n", {}, {"a": 1})
    with tracked_arm("full", ArmParams(label="A"), {}) as arm:
        clip = project / "clip.mp4"
        clip.write_bytes(project.name.encode())
        arm.artifact(clip, "clips")
    end_parent("FINISHED")
    os.environ.pop(tracking.PARENT, None)
    return parent, arm.run_id


def content(folder: Path) -> dict[str, str]:
    files = (p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def clip_of(project: Path, run_id: str, tmp: Path) -> tuple[bytes, str]:
    """The clip as a reader of the store gets it, and where the store says that it is."""
    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    tmp.mkdir(exist_ok=True)
    path = Path(client.download_artifacts(run_id, "clips/clip.mp4", str(tmp)))
    return path.read_bytes(), client.get_run(run_id).info.artifact_uri


@pytest.fixture
def born(tmp_path: Path) -> tuple[Path, str]:
    """A project with one run, in a folder with a space and a letter beyond ASCII; the id of the arm's."""
    project = tmp_path / "here ä" / "born"
    project.mkdir(parents=True)
    return project, run(project)[1]


def test_a_copy(born: tuple[Path, str], tmp_path: Path) -> None:
    original, old = born
    copy = tmp_path / "there" / "copy"
    shutil.copytree(original, copy)
    before = content(original)
    _, new = run(copy)
    assert content(original) == before
    for run_id, holds in ((old, b"born"), (new, b"copy")):
        clip, place = clip_of(copy, run_id, tmp_path / "read")
        assert clip == holds and place.startswith((copy / "mlartifacts").as_uri())
    (copy / "mlartifacts" / old / "artifacts/clips/clip.mp4").write_bytes(b"of the copy")
    assert clip_of(copy, old, tmp_path / "read")[0] == b"of the copy"
    # The original goes on in its own place.
    assert clip_of(original, old, tmp_path / "read")[1].startswith((original / "mlartifacts").as_uri())


def test_a_copy_without_the_artefacts_writes_nothing_into_the_original(born: tuple[Path, str], tmp_path: Path) -> None:
    original, _ = born
    copy = tmp_path / "copy"
    shutil.copytree(original, copy, ignore=shutil.ignore_patterns("mlartifacts"))
    before = content(original)
    _, new = run(copy)
    assert content(original) == before and clip_of(copy, new, tmp_path / "read")[0] == b"copy"


@pytest.mark.parametrize("at_the_old_place", [None, "empty", "file"])
def test_a_move(born: tuple[Path, str], tmp_path: Path, at_the_old_place: str | None) -> None:
    """Also twice, and with something else by now where it was born; a place that cannot be written stops nothing."""
    original, old = born
    first, second = tmp_path / "first", tmp_path / "first" / "inside" / "second"
    shutil.move(original, first)
    if at_the_old_place == "empty":
        original.mkdir()
    elif at_the_old_place == "file":
        original.write_text("a file: nothing can be made below it")
    run(first)
    parking = tmp_path / "parking"
    shutil.move(first, parking)
    second.parent.mkdir(parents=True)
    shutil.move(parking, second)
    _, new = run(second)
    for run_id, holds in ((old, b"born"), (new, b"second")):
        clip, place = clip_of(second, run_id, tmp_path / "read")
        assert clip == holds and place.startswith((second / "mlartifacts").as_uri())
    assert not original.is_dir() or not list(original.iterdir())


def test_a_registered_adapter_follows(
    born: tuple[Path, str], manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Registered as docs/tracking.md says, and loaded back by its name from where the project is now."""
    original, arm = born
    uri, weights = "sqlite:///{}/mlflow.db".format, manifest(tmp_path)
    model = log_adapter(MlflowClient(uri(original)), arm, weights)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri(original))
    assert mlflow.register_model(f"models:/{model}", "detail").run_id == arm
    copy = tmp_path / "copy"
    shutil.move(original, copy)
    run(copy)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri(copy))
    loaded = Path(mlflow.artifacts.download_artifacts("models:/detail/1"))
    assert loaded.is_relative_to(copy / "mlartifacts")
    assert (loaded / weights.path.name).read_bytes() == weights.path.read_bytes()


def test_a_run_that_was_killed_before_the_move_is_closed_after_it(born: tuple[Path, str], tmp_path: Path) -> None:
    original, _ = born
    parent = start_parent(TrackingParams(), original, "n", {}, {})
    client = MlflowClient(f"sqlite:///{original}/mlflow.db")
    client.set_tag(parent, "process", client.get_run(parent).data.tags["process"].rpartition("/")[0] + "/1")
    os.environ.pop(tracking.PARENT)
    moved = tmp_path / "moved"
    shutil.move(original, moved)
    run(moved)
    assert MlflowClient(f"sqlite:///{moved}/mlflow.db").get_run(parent).info.status == "KILLED"


def test_another_project_in_the_same_store_keeps_its_places(born: tuple[Path, str], tmp_path: Path) -> None:
    """One that keeps its runs in a file of this project, by an absolute address, was not copied from it."""
    original, _ = born
    other = tmp_path / "other"
    other.mkdir()
    uri = f"sqlite:///{original}/mlflow.db"
    _, theirs = run(other, uri, "theirs")
    run(original)
    clip, place = clip_of(original, theirs, tmp_path / "read")
    assert clip == b"other" and place.startswith((other / "mlartifacts").as_uri())


def test_a_store_outside_the_project_is_left_alone(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (shared, first):
        folder.mkdir()
    uri = f"sqlite:///{shared}/mlflow.db"
    _, old = run(first, uri)
    shutil.copytree(first, second)
    run(second, uri)
    assert clip_of(shared, old, tmp_path / "read")[1].startswith((first / "mlartifacts").as_uri())
