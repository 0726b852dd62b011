"""MLflow's own pages of a store that a run has filled: the list, a run's description, and from it the comparison."""

import os
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import TimeoutError as PlaywrightTimeout

from tests.browser import free_port, needs_chromium, opened_page, served
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.io.video import write_lossless, write_preview
from vibe_pipeline.reporting.arm_runs import ArmRecord, log_arm_runs, note_on_arms
from vibe_pipeline.tracking import end_parent

pytestmark = needs_chromium
ARMS = {"full": 30.5, "upsample": 25.25}


@pytest.fixture
def address(start, tmp_path: Path):
    """Of a server on the store of one run with two arms, started as `make mlflow` does."""
    start(changed="native_source=truth")
    frames = np.random.default_rng(0).random((3, 32, 32, 3), np.float32)
    path = write_lossless(tmp_path / "a.mp4", frames, 8.0)
    preview = write_preview(tmp_path / "b.mp4", frames, 8.0)
    records = []
    for arm, psnr in ARMS.items():
        score = {"arm": arm, "metric": "psnr", "family": "detail", "direction": "higher", "status": "scored"}
        rows = pd.DataFrame([score | {"mean": psnr, "ci_low": psnr - 1, "ci_high": psnr + 1, "reason": ""}])
        clip = {"arm": arm, "seed": 0, "key": arm, "frames": 3, "path": str(path), "preview_path": str(preview)}
        asked = enumerate(["a red cross", "a blue disc"])
        clips = pd.DataFrame([clip | {"prompt_index": i, "prompt": p, "seconds": 30.0} for i, p in asked])
        method = {"method": "upsample"} if arm == "upsample" else {}
        records.append(ArmRecord(arm, ArmParams(label=arm, **method), rows, clips))
    recorded = log_arm_runs(records, GenerationParams(prompts="miniature"), 2)
    note_on_arms(pd.concat(record.rows for record in records), ["psnr"], recorded)
    uri = os.environ["VIBE_MLFLOW_URI"]
    end_parent("FINISHED")
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--port", str(port), "--workers", "1"]
    with served(command, tmp_path, port, os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}) as found:
        yield found


def test_arms_are_compared_two_clicks_from_the_list(address: str) -> None:
    with opened_page() as page:
        page.goto(f"{address}/#/experiments/1/runs?workflowType=machine_learning")
        link = page.get_by_role("link", name="base: all").first
        for _ in range(6):  # a list that was asked for while the server was still busy stays empty
            with suppress(PlaywrightTimeout):
                link.wait_for(timeout=30_000)
                break
            page.reload()
        link.click()
        page.get_by_text("PSNR, dB ↑").wait_for()
        assert page.get_by_role("cell", name="25.2", exact=False).count() >= 1
        with page.expect_popup() as popup:
            page.get_by_text("Compare these arms").click()
        compared = popup.value
        compared.get_by_text("Comparing 2 Runs").wait_for()
        compared.get_by_text("full · native_source=truth").first.wait_for()
        compared.get_by_text("upsample · native_source=truth").first.wait_for()
        compared.get_by_text("1.0min").first.wait_for()
        with page.expect_popup() as popup:
            page.get_by_text("their charts").click()
        charts = popup.value
        charts.get_by_text("detail/psnr").first.wait_for()
        charts.get_by_role("link", name="upsample · native_source=truth").first.wait_for()
        with page.expect_popup() as popup:
            page.get_by_text("their pictures side by side").click()
        grid = popup.value
        grid.get_by_role("columnheader", name="full · native_source=truth").wait_for()
        heads = grid.get_by_role("columnheader").all_inner_texts()
        runs = [head.splitlines()[-1] for head in heads[1:]]  # the last line: there are no parameters below
        assert runs == ["upsample · native_source=truth", "full · native_source=truth"]
        grid.get_by_text("clips/0001-0 a blue disc").wait_for()
        grid.wait_for_function("document.querySelectorAll('[role=row] img').length === 4")
