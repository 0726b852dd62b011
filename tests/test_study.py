"""docs/RESULTS.md and its tables are what their raw results give."""

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_the_results_pages_follow_from_the_kept_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("study_page", ROOT / "benchmarks/study_page.py")
    page = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "study_page", page)
    monkeypatch.syspath_prepend(ROOT / "benchmarks")  # its neighbours, which it imports by their names
    spec.loader.exec_module(page)
    shutil.copytree(ROOT / "docs/results", tmp_path / "results", ignore=shutil.ignore_patterns("*.png"))
    monkeypatch.setattr(page, "DOCS", tmp_path)
    monkeypatch.setattr(page, "RAW", tmp_path / "results")
    page.write()
    for name in ("RESULTS.md", "RESULTS_TABLES.md"):
        assert (tmp_path / name).read_text() == (ROOT / "docs" / name).read_text()
    drawn = {path.relative_to(tmp_path) for path in tmp_path.rglob("*.png")}
    kept = {path.relative_to(ROOT / "docs") for path in (ROOT / "docs/results").rglob("*.png")}
    of_clips = {Path("results/miniature_study/looks.png"), Path("results/miniature_x4/kept.png")}
    assert drawn | of_clips == kept
