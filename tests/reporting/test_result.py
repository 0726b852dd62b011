"""What a run ends with: the arms by the measures to read first, verdicts, where to look."""

from pathlib import Path

import pandas as pd
import pytest

from tests.one_claim import evaluate_claim
from vibe_pipeline.experiment.claims import Claim
from vibe_pipeline.reporting.result import ARMS, ending, result_of, to_read_first


def claim(name: str, statement: str, other: str, *metrics: str) -> Claim:
    """Of full against another, by these measures, the first of them primary."""
    first, *rest = [{"metric": metric, "better": "lower", "margin": 0.1} for metric in metrics]
    row = {"name": name, "statement": statement, "kind": name, "arm": "full", "other": other}
    return Claim.model_validate(row | {"primary": first, "secondary": rest})


CLAIMS = [
    claim("a", "full beats no_relay", "no_relay", "flicker"),
    claim("b", "full is closer", "upsample", "psnr", "flicker", "band_error"),
]


def table(arms: list[str], metrics: dict[str, list[str]]) -> pd.DataFrame:
    """Each metric, scored on these of the arms."""
    rows = [
        {"arm": arm, "metric": metric, "mean": 0.25 if arm in scored else float("nan"), "direction": "lower"}
        | {"family": "resolution", "status": "scored" if arm in scored else "skipped"}
        for metric, scored in metrics.items()
        for arm in arms
    ]
    return pd.DataFrame(rows)


@pytest.fixture
def found() -> pd.DataFrame:
    arms = ["upsample", "full", "no_relay", "truth"]
    return table(arms, {"detail": arms, "psnr": ["truth"], "band_error": arms, "flicker": arms})


def test_measures_come_as_on_the_page_and_those_of_a_bound_alone_not(found: pd.DataFrame) -> None:
    assert to_read_first(found[found["status"] == "scored"]) == ["band_error", "flicker", "detail"]
    assert to_read_first(found.iloc[:0]) == []


def test_a_run_ends_with_table_verdicts_page_and_run(found: pd.DataFrame, tmp_path: Path) -> None:
    judged = [evaluate_claim(one, pd.DataFrame()) for one in CLAIMS]
    page = tmp_path / "index.html"
    manifest = {"path": str(page), "result": result_of(found, CLAIMS, judged, ("full",))}
    lines = ending(manifest, "http://host/#/experiments/1/runs/2")
    assert lines[0].split()[0] == "arm" and "↓" in lines[0]
    assert [line.split()[0] for line in lines[1:5]] == ["full", "no_relay", "upsample", "truth"]
    assert all(line.split()[1:] == ["0.250"] * 3 for line in lines[1:5])
    assert "– not run: full beats no_relay" in lines
    assert f"report   {page.as_uri()}" in lines and lines[-1] == "MLflow   http://host/#/experiments/1/runs/2"


def test_many_arms_are_cut_and_none_is_said() -> None:
    arms = [f"arm{i}" for i in range(ARMS + 3)]
    many = result_of(table(arms, {"detail": arms}), [], [], ("arm0", "arm11"))
    assert list(many["arms"])[:3] == ["arm0", "arm11", "arm1"], "the best arm is not cut off, wherever it stands"
    assert len(many["arms"]) == ARMS and "and 3 more in the report" in ending({"path": "x", "result": many}, "")
    none = result_of(table(arms, {"detail": []}), [], [], ("arm0", "arm11"))
    assert ending({"path": "x", "result": none}, "")[0] == "no arm was scored: the report says why"
    assert ending(None, "") == ["done"]


def test_a_run_that_stopped_after_its_preview_says_where_that_is(tmp_path: Path) -> None:
    sheets = [str(tmp_path / f"sheet_{i}.png") for i in (1, 2)]
    lines = ending(None, "", {"sheets": sheets})
    assert lines == ["done", *(f"preview  {Path(sheet).as_uri()}" for sheet in sheets)]
