"""What is kept of a run that grows, and when it ends."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from vibe_pipeline.evaluation.sequential import Look
from vibe_pipeline.reporting.growth import Growth, Told

BLOCKS = (8, 16, 32)
PARAMS = {"generation": {"count": 8, "prompts": "miniature"}, "run": {"hours": 1}, "arms": {"a": {"steps": 4}}}


def told(number: int, *still_open: str, hours: float = 1.0) -> Told:
    return Told(number, 0.01, {"one": "holds"}, list(still_open), {}, hours)


@pytest.fixture
def growth(tmp_path: Path) -> Growth:
    return Growth.kept(PARAMS, BLOCKS, tmp_path / "growth.json")


def test_looks_are_kept_for_the_same_experiment_alone(growth: Growth) -> None:
    growth.looked(told(1, "two")).ran(0.5)
    more = PARAMS | {"generation": {"count": 16, "prompts": "miniature"}, "run": {}, "_anchor": 1}
    again = Growth.kept(more, BLOCKS, growth.path)
    assert again.looks == (told(1, "two"),) and again.hours == 1.5
    assert again.looked(told(2, "two", hours=2.5)).hours == 3.5, "the unfinished part went into the look"
    assert Growth.kept(PARAMS | {"arms": {"a": {"steps": 5}}}, BLOCKS, growth.path).looks == ()


def test_it_goes_on_while_a_claim_is_open_and_ends_with_the_last_look(growth: Growth) -> None:
    assert growth.ending() == ""
    assert growth.looked(told(1, "two")).ending() == ""
    assert growth.looked(told(1)).ending() == "every claim that can be told is told, at look 1 of 3"
    assert growth.looked(told(3, "two", "x")).ending().endswith("from this data cannot be told: two, x")


def test_budgets(growth: Growth) -> None:
    once = growth.looked(told(1, "two"))
    assert once.ending(1.5, 16) == "" and once.ending(None, 15).startswith("the next look takes 16 prompts")
    assert once.ending(1.0) == "the budget of 1 h is spent; verdicts stand at look 1 of 3"
    assert growth.ending(None, 7).startswith("the first look takes 8 prompts")
    assert growth.ran(2.0).ending(2.0).endswith("verdicts stand at none, as no look was finished")
    assert replace(once, looks=(told(1),)).ending(1.0).startswith("every claim"), "told is told, whatever is spent"


def verdicts(look: int = 2, looks: int = 3) -> pd.DataFrame:
    said = {"one": "holds", "two": "cannot be told from this data", "three": "not run", "four": "equivalent"}
    rows = [{"claim": name, "role": "primary", "corrected": verdict} for name, verdict in said.items()]
    rows.append({"claim": "one", "role": "secondary", "corrected": "holds"})
    return pd.DataFrame(rows).assign(look=look, looks=looks, level=0.0083)


def test_a_look_in_one_line() -> None:
    found = Told.of(verdicts(), Look(2, BLOCKS), 0.25)
    assert found.still_open == ["two"] and found.never == {"three": "not run"}
    assert found.line(BLOCKS) == (
        "look 2 of 3, 16 of at most 32 prompts, level 0.0083, 0.25 h: told 2 (one holds, four equivalent); "
        "open 1 (two); cannot be told here 1 (three)"
    )


@pytest.mark.parametrize("table", [verdicts(look=1), verdicts(looks=1), verdicts().iloc[:0]])
def test_verdicts_of_another_look_are_not_taken_for_this_one(table: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="the run of look 2 of 3, 16 of at most 32 prompts left no verdicts"):
        Told.of(table, Look(2, BLOCKS), 1.0)
