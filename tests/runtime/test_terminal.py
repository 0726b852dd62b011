"""The log is whole lines, the run's file keeps tracebacks, and warnings that nobody can act on are left out."""

import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from vibe_pipeline.runtime import terminal
from vibe_pipeline.runtime.terminal import WholeLines, close_log, hush, keep_error, keep_log, whole_lines


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, as it was afterwards."""
    root = logging.getLogger()
    before = list(root.handlers)
    yield root
    root.handlers[:] = before


def test_kedros_stream_is_replaced_once_and_others_stay(root: logging.Logger) -> None:
    other = logging.NullHandler()
    root.handlers[:] = [logging.StreamHandler(sys.stderr), other]
    whole_lines()
    whole_lines()
    assert [type(handler) for handler in root.handlers] == [logging.NullHandler, WholeLines]


def test_the_runs_file_has_messages_and_the_traceback_without_passwords(tmp_path: Path, monkeypatch, capfd) -> None:
    monkeypatch.chdir(tmp_path)
    keep_log(tmp_path / "reporting/run.log")
    logger = logging.Logger("a")
    logger.addHandler(WholeLines())
    logger.info("a message")
    logger.info("bare", extra={"bare": True})
    with pytest.raises(KeyError) as caught:
        {}["postgresql://me:hunter2@host/db"]
    assert keep_error(caught.value) == Path("reporting/run.log")
    close_log()
    logger.info("afterwards")
    kept = (tmp_path / "reporting/run.log").read_text()
    assert "a message" in kept and "Traceback" in kept and "KeyError" in kept and "afterwards" not in kept
    assert "hunter2" not in kept
    shown = capfd.readouterr().err
    assert "INFO    a message\nbare\n" in shown and "afterwards" in shown and "Traceback" not in shown


@pytest.mark.parametrize(
    "words",
    ["register_new_resolver() is deprecated and will be removed", "Mismatch dtype between input and weight: input"],
)
def test_libraries_warnings_about_each_other_are_left_out_and_no_others(words: str) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        hush()
        warnings.warn(words, UserWarning, stacklevel=1)
        warnings.warn("the disk is nearly full", UserWarning, stacklevel=1)
    assert [str(w.message) for w in seen] == ["the disk is nearly full"]
    assert len(terminal.HUSHED) == 2
