"""TMPDIR: too long for sockets, missing, or not to be written."""

import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from vibe_pipeline.runtime import scratch
from vibe_pipeline.runtime.scratch import settle_scratch

ROOT = Path(__file__).parents[2]


@pytest.fixture
def choose(monkeypatch: pytest.MonkeyPatch):
    """Set TMPDIR as a shell would, before Python has looked at it."""

    def to(folder: Path) -> None:
        monkeypatch.setenv("TMPDIR", str(folder))
        monkeypatch.setattr(tempfile, "tempdir", None)

    return to


@pytest.fixture
def long(tmp_path: Path) -> Path:
    """A folder of more than 100 characters."""
    folder = tmp_path / ("d" * 100)
    folder.mkdir()
    return folder


def test_a_folder_that_is_right_stays(choose, tmp_path_factory: pytest.TempPathFactory, caplog) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        choose(Path(folder))
        assert settle_scratch() == Path(folder) and not caplog.records and not list(Path(folder).iterdir())


def test_a_long_path_gives_way_to_a_short_one(choose, long: Path, caplog) -> None:
    choose(long)
    assert str(settle_scratch()) in scratch.SHORT
    assert tempfile.gettempdir() == os.environ["TMPDIR"] and str(long) in caplog.text and not list(long.iterdir())
    # What Kedro's ParallelRunner starts; it listens in the folder for temporary files.
    multiprocessing.get_context("spawn").Manager().shutdown()


@pytest.mark.parametrize("folder", ["/proc", "/nosuch/folder"])
def test_a_folder_that_cannot_be_written_is_told(choose, folder: str, caplog) -> None:
    choose(Path(folder))
    settle_scratch()
    assert f"TMPDIR: {folder} cannot be written" in caplog.text


def test_no_folder_at_all_is_refused(choose, long: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choose(long)
    monkeypatch.setattr(scratch, "SHORT", (str(long),))
    with pytest.raises(OSError, match=r"takes no sockets of processes .* set TMPDIR to a short path"):
        settle_scratch()
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc"])
    monkeypatch.setattr(tempfile, "tempdir", None)
    with pytest.raises(OSError, match=r"no temporary files can be written .* set TMPDIR"):
        settle_scratch()


def test_a_parallel_run_starts_and_says_what_is_wrong_with_its_parameters(tmp_path: Path, long: Path) -> None:
    """Kedro makes its runner, which opens a socket, before it looks at anything else; a refusal is the last line."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    (tmp_path / "conf/local").mkdir(exist_ok=True)
    (tmp_path / "src").mkdir()
    for name in ("pyproject.toml", ".telemetry"):
        shutil.copy(ROOT / name, tmp_path)
    command = [sys.executable, "-m", "kedro", "run", "--runner=ParallelRunner", "--params=generation.cuont=2"]
    environment = os.environ | {"TMPDIR": str(long), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    said = done.stdout + done.stderr
    assert done.returncode == 1 and "Aborted" not in said and "Traceback" not in said
    assert done.stderr.strip().splitlines()[-1] == "Error: generation has no field 'cuont'; did you mean 'count'?"
