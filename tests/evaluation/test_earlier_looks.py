"""Looks before at fewer of the same prompts are known again, whatever run made them."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from vibe_pipeline.evaluation.earlier_looks import note_look, said_of_earlier
from vibe_pipeline.evaluation.sequential import ONLY_LOOK, Look
from vibe_pipeline.experiment.claims import Asked, Claim
from vibe_pipeline.io.files import read_json

BLOCKS = (2, 4, 6)


def claim(name: str, arm: str, other: str, metric: str = "m") -> Claim:
    primary = Asked(metric=metric, better="higher", margin=0.1)
    return Claim(name=name, statement="s", kind="k", arm=arm, other=other, primary=primary)


CLAIMS = claim("one", "a", "b"), claim("two", "a", "c"), claim("gone", "a", "nowhere")


def clips(prompts: Sequence[int], **made: str) -> pd.DataFrame:
    """Clips of a, b and c; the keyword of an arm says that its clips are of another making."""
    rows = [(arm, prompt, f"{arm}{made.get(arm, '')}-{prompt}") for arm in "abc" for prompt in prompts]
    return pd.DataFrame(rows, columns=["arm", "prompt_index", "key"])


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "looks.json"


def test_a_plain_run_with_more_prompts_has_looked_before(record: Path) -> None:
    assert note_look(record, CLAIMS, clips([0, 1]), ONLY_LOOK) == {}
    # Prompts need not be the first of the list: VBench's choices grow in between.
    assert note_look(record, CLAIMS, clips([0, 7, 1, 9]), ONLY_LOOK) == {"one": [2], "two": [2]}
    assert note_look(record, CLAIMS, clips([0, 1, 7, 9, 4]), ONLY_LOOK) == {"one": [2, 4], "two": [2, 4]}
    assert note_look(record, CLAIMS, clips([1, 7, 9, 4, 5]), ONLY_LOOK) == {}, "other prompts"


def test_the_same_look_again_is_no_look_more(record: Path) -> None:
    for _ in range(2):
        assert note_look(record, CLAIMS, clips([0, 1]), ONLY_LOOK) == {}
    assert len(read_json(record)["looks"]) == 1


def test_looks_of_the_same_plan_are_corrected_for_and_others_are_not(record: Path) -> None:
    for number, prompts in ((1, 2), (2, 4)):
        assert note_look(record, CLAIMS, clips(range(prompts)), Look(number, BLOCKS)) == {}
    assert note_look(record, CLAIMS, clips(range(6)), Look(3, (2, 4, 6), "pocock")) == {"one": [2, 4], "two": [2, 4]}
    assert note_look(record, CLAIMS, clips(range(5)), ONLY_LOOK) == {"one": [2, 4], "two": [2, 4]}
    assert note_look(record, CLAIMS, clips(range(6)), Look(3, BLOCKS)) == {"one": [5], "two": [5]}


def test_only_what_a_claim_rests_on_counts(record: Path) -> None:
    note_look(record, CLAIMS, clips([0, 1]), ONLY_LOOK)
    assert note_look(record, CLAIMS, clips([0, 1, 2], c="again"), ONLY_LOOK) == {"one": [2]}
    assert note_look(record, CLAIMS, clips([0, 1, 2], a="again"), ONLY_LOOK) == {}
    asked = [claim("one", "a", "b", "another"), CLAIMS[1]]
    assert note_look(record, asked, clips([0, 1, 2]), ONLY_LOOK) == {"two": [2]}


def test_nothing_that_was_judged_leaves_no_record(record: Path) -> None:
    assert note_look(record, (), clips([0]), ONLY_LOOK) == {}
    assert note_look(record, CLAIMS, clips([]), ONLY_LOOK) == {}
    assert not record.exists()


def test_in_words() -> None:
    assert said_of_earlier(()) == ""
    assert said_of_earlier([16, 32]).startswith("looked at before on 16, 32 of these prompts")
