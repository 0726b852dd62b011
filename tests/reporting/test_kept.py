"""Reports of earlier runs stay, each once, and are listed."""

from pathlib import Path

from vibe_pipeline.reporting import kept
from vibe_pipeline.reporting.kept import keep_report, kept_reports


def report(folder: Path, page: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "index.html").write_text(page)
    (folder / "scores.parquet").write_bytes(page.encode())
    return folder


def test_every_runs_own_report_is_kept_and_listed(tmp_path: Path) -> None:
    newest, root = tmp_path / "report", tmp_path / "reports"
    runs = {"1" * 32: "first <page>", "2" * 32: "second"}
    folders = [keep_report(report(newest, page), root, {"run_id": run, "name": "base"}) for run, page in runs.items()]
    assert [(f / "index.html").read_text() for f in folders] == [*runs.values()]
    assert [(f / "scores.parquet").read_bytes().decode() for f in folders] == [*runs.values()]
    assert [found["run_id"] for found in kept_reports(root)] == [*reversed(runs)]
    page = (root / "index.html").read_text()
    assert page.index(folders[1].name) < page.index(folders[0].name)
    assert all(f'href="{f.name}/index.html"' in page for f in folders)
    # The same report again is not kept twice.
    assert keep_report(newest, root, {"run_id": "3" * 32, "name": "base"}) == folders[1]
    assert len(kept_reports(root)) == 2


def test_a_name_in_the_list_is_text_and_a_folder_without_its_page_is_passed_over(tmp_path: Path) -> None:
    root = tmp_path / "reports"
    (root / "20200101-000000-gone").mkdir(parents=True)
    keep_report(report(tmp_path / "report", "x"), root, {"run_id": "", "name": "<b>base</b>"})
    page = (root / kept.LIST).read_text()
    assert "&lt;b&gt;base" in page and "gone" not in page
