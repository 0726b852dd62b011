"""Reports of earlier runs: each run's own is kept in a folder of its own, and a page lists them."""

import filecmp
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import jinja2

from vibe_pipeline.io.files import read_json, write_atomic, write_json
from vibe_pipeline.reporting.page import TEMPLATES

PAGE, SCORES, ABOUT, LIST = "index.html", "scores.parquet", "about.json", "index.html"


def keep_report(newest: Path, root: Path, about: Mapping[str, str]) -> Path:
    """Keep a copy of the newest report, and list all that are kept; one equal to the last that was kept is that one.

    Args:
        newest: The folder of the newest report: index.html and scores.parquet.
        root: Gets a folder named by the time and the run, and index.html, the list.
        about: `run_id` and `name` of the run in MLflow, empty where it is not tracked.

    Returns:
        The folder in which this report is kept.
    """
    root.mkdir(parents=True, exist_ok=True)
    last = next(iter(kept_reports(root)), None)
    if last is not None and filecmp.cmp(newest / PAGE, root / last["folder"] / PAGE, shallow=False):
        return root / str(last["folder"])
    made = datetime.now(UTC)
    folder = root / "-".join(filter(None, [f"{made:%Y%m%d-%H%M%S}", about.get("run_id", "")[:8]]))
    folder.mkdir(exist_ok=True)
    for name in (SCORES, PAGE):
        write_atomic(folder / name, partial(shutil.copyfile, newest / name))
    write_json(folder / ABOUT, {"made": made.isoformat(timespec="seconds")} | dict(about))
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True)
    page = environment.get_template("reports.html.j2").render(reports=kept_reports(root))
    write_atomic(root / LIST, lambda path: path.write_text(page, encoding="utf-8"))
    return folder


def kept_reports(root: Path) -> list[dict[str, Any]]:
    """What is kept, the newest first: folder, made, run_id, name, bytes. A folder without its page is passed over."""
    folders = sorted((f for f in root.glob("*-*") if (f / PAGE).is_file() and (f / ABOUT).is_file()), reverse=True)
    return [read_json(f / ABOUT) | {"folder": f.name, "bytes": (f / PAGE).stat().st_size} for f in folders]
