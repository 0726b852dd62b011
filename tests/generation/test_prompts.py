"""Prompts from a file or from the miniature's held-out captions."""

from pathlib import Path

import pytest

from vibe_pipeline.config import GenerationParams
from vibe_pipeline.generation.prompts import load_prompts
from vibe_pipeline.miniature.scene import is_held_out


def test_every_prompt_meets_every_seed(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a cat\n\n  a dog, running  \nein Bär\n", encoding="utf-8")
    table = load_prompts(GenerationParams(prompts=tmp_path / "p.txt", count=2, seeds=(3, 5)))
    assert table.to_dict("list") == {
        "prompt_index": [0, 0, 1, 1],
        "prompt": ["a cat", "a cat", "a dog, running", "a dog, running"],
        "seed": [3, 5, 3, 5],
    }
    assert load_prompts(GenerationParams(prompts=tmp_path / "p.txt"))["prompt"].tolist()[2] == "ein Bär"


@pytest.mark.parametrize(
    ("text", "message"), [("", "no prompts"), ("\n \n", "no prompts"), ("a\nb\na\n", "'a' stands twice")]
)
def test_a_list_that_cannot_be_used_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "p.txt").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        load_prompts(GenerationParams(prompts=tmp_path / "p.txt"))
    assert "p.txt" in str(error.value)


def test_the_miniatures_prompts_are_held_out_and_a_longer_list_begins_with_the_shorter() -> None:
    few, many = (load_prompts(GenerationParams(prompts="miniature", count=n))["prompt"].tolist() for n in (5, 40))
    assert all(is_held_out(p) for p in many)
    assert len(set(many)) == 40
    assert many[:5] == few


def test_more_prompts_than_the_world_has_are_refused() -> None:
    with pytest.raises(ValueError, match="5000 held-out captions were asked for"):
        load_prompts(GenerationParams(prompts="miniature", count=5000))
