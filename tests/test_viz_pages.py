"""Kedro-Viz in a real browser: closed, the graph is small; rows are boxes by name; nodes show code, status and time."""

import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from kedro.io import DataCatalog
from playwright.sync_api import TimeoutError as PlaywrightTimeout

from tests.browser import free_port, needs_chromium, opened_page, served
from tests.conf_files import loader_of_conf
from vibe_pipeline.experiment.load import settled_parameters
from vibe_pipeline.generation.methods import checked_tables
from vibe_pipeline.pipeline_registry import register_pipelines, use_tables
from vibe_pipeline.runtime.workflow import NOTES, begin_workflow, end_workflow, note_node

pytestmark = needs_chromium
ROOT = Path(__file__).parents[1]
SHOWN = "[...document.querySelectorAll('.pipeline-node__text')].map(node => node.textContent)"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of Kedro-Viz on a copy of the project in which a run ended."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "conf", folder / "conf")
    (folder / "conf/local").mkdir(exist_ok=True)
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", ".telemetry"):
        shutil.copy(ROOT / name, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.delenv(NOTES, raising=False)
        use_tables(checked_tables(settled_parameters(loader_of_conf(ROOT / "conf"))))
        nodes = register_pipelines()["__default__"].nodes
        begin_workflow(folder)
        for node in nodes:
            note_node(node.name, 0.321)
        end_workflow(nodes, DataCatalog())
    port = free_port()
    command = [sys.executable, "-m", "kedro", "viz", "run", "--include-hooks", "--no-browser", "--port", str(port)]
    environment = os.environ | {"PYTHONPATH": str(folder / "src"), "DO_NOT_TRACK": "1"}
    with served(command, folder, port, environment) as found:
        yield found


def test_the_closed_graph_is_small_and_a_box_opens_to_rows_by_name(address: str) -> None:
    with opened_page() as page:
        page.goto(address)
        page.get_by_text("write_page").first.wait_for()
        closed = page.evaluate(SHOWN)
        assert {"arms", "adapters", "stage1", "clips", "own_scores", "spectra", "trainings"} <= set(closed)
        assert len(closed) <= 50 and not [
            name for name in closed if name.startswith(("clips-", "scores-", "spectrum-"))
        ]
        page.get_by_text("arms", exact=True).first.click()
        page.get_by_text("arms.full_pixel").first.wait_for()


def test_a_rows_node_shows_its_code(address: str) -> None:
    with opened_page() as page:
        page.goto(f"{address}/?expandAllPipelines=true")
        node, show = page.locator(".pipeline-node--task", has_text="generate").first, page.get_by_text("Show Code")
        for _ in range(6):  # the graph moves while it is laid out, and a click may miss
            node.click(force=True)
            with suppress(PlaywrightTimeout):
                show.wait_for(timeout=10_000)
                break
        show.click()
        shown = page.get_by_text(re.compile(r"def render_(filtered_)?arm")).first  # whichever row was laid out first
        shown.wait_for()
        assert shown.is_visible()


def test_the_workflow_view_has_status_and_time(address: str) -> None:
    with opened_page() as page:
        page.goto(f"{address}/workflow")
        page.get_by_text("Run execution completed successfully").wait_for()
        page.get_by_text("321ms").first.wait_for()
        assert page.get_by_text("321ms").count() > 20
