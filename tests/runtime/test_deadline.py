"""A run's hours: spent, unlimited, and what a generation keeps."""

import os

import pytest

from vibe_pipeline.runtime import deadline as budget


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))


def test_no_limit_never_stops() -> None:
    budget.set_deadline(1e-9)
    budget.set_deadline(None)
    budget.require_time("everything")
    assert not budget.out_of_time()


def test_spent_hours_stop_with_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget.time, "time", lambda: 1000.0)
    budget.set_deadline(0.5)
    monkeypatch.setattr(budget.time, "time", lambda: 2799.0)
    budget.require_time("3 clips")
    monkeypatch.setattr(budget.time, "time", lambda: 2801.0)
    with pytest.raises(budget.OutOfTimeError, match=r"run\.hours are spent; kept: 3 clips"):
        budget.require_time("3 clips")
