"""benchmarks/scale.py still finds nothing to do where all is there, in every part of a run."""

import importlib
import json
import logging
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_every_part_goes_through_what_is_there_and_makes_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    scale, file = importlib.import_module("scale"), tmp_path / "scale.json"
    level = logging.getLogger("vibe_pipeline").level
    scale.main(["--factors", "1", "--json", str(file)])
    found = json.loads(file.read_text())
    assert {name: rows[0]["units"] for name, rows in found.items()} == {
        "clips": 16,
        "measured": 16,
        "vbench": 16,
        "tables": 320,
        "images": 480,
    }
    assert "1,000 clips of 20 arms take" in capsys.readouterr().out
    assert logging.getLogger("vibe_pipeline").level == level  # what runs after it in this process is heard again
