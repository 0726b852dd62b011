"""The short form of benchmarks/faults.py: killed twice, started again, equal to an undisturbed run."""

from pathlib import Path
from types import ModuleType


def test_a_killed_run_started_again_equals_an_undisturbed_one(faults: ModuleType, tmp_path: Path) -> None:
    """Killed at a third and at two thirds of its pieces: an event, as moments depend on how busy the machine is."""
    straight, killed = (faults.make_project(tmp_path / name, 1, images=16, steps=8) for name in ("straight", "killed"))
    assert faults.attempt(straight)
    pieces, seen = len(faults.finished(straight)), {}
    for share in (1 / 3, 2 / 3, None):
        assert faults.attempt(killed, pieces=share and round(share * pieces)) == (share is None)
        now = faults.finished(killed)
        assert not faults.made_again(seen, now)
        seen = now
    expected = faults.results(straight)
    assert len(expected) > 10
    assert faults.results(killed) == expected
