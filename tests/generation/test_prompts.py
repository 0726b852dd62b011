"""Prompts from a file or from the miniature's held-out captions."""

import json
import shlex
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from vibe_pipeline.experiment.generation import GenerationParams
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


FOUR_K = [{"data_file": f"{i}.mp4", "prompt_en": f" A city at\u2028night, seen from {i} roofs.\n"} for i in range(120)]


def four_k(path: Path, **others: object) -> GenerationParams:
    return GenerationParams(prompts="4k_vbench", prompts_4k_vbench=path, **others)


def test_the_prompts_of_4k_vbench_come_from_its_own_file(tmp_path: Path) -> None:
    path = tmp_path / "4K-Vbench.json"
    path.write_text(json.dumps(FOUR_K), encoding="utf-8-sig")
    table = load_prompts(four_k(path, seeds=(0, 1)))
    assert len(table) == 240 and table["prompt"].iloc[238] == "A city at night, seen from 119 roofs."
    assert "dimensions" not in table  # each is scored on every dimension that needs no labels
    assert load_prompts(four_k(path, skip=3, count=2))["prompt_index"].tolist() == [3, 4]


def test_a_list_of_4k_vbench_has_to_be_named() -> None:
    with pytest.raises(ValueError, match="4k_vbench needs prompts_4k_vbench, the file 4K-VBench"):
        GenerationParams(prompts="4k_vbench")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "generation.prompts_4k_vbench.* zhangzjn/T3-Video"),
        ("[", "4K-Vbench.json is not JSON"),
        ("{}", "not a list of objects that have a text `prompt_en`"),
        ('[{"prompt_en": "a"}, {"prompt": "b"}]', "not a list of objects that have a text `prompt_en`"),
        ('[{"prompt_en": "a"}, {"prompt_en": "a"}]', "entry 2: 'a' stands twice, in entry 1 too"),
    ],
)
def test_a_list_of_4k_vbench_that_cannot_be_used_is_named(tmp_path: Path, content: str | None, words: str) -> None:
    path = tmp_path / "4K-Vbench.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=words) as error:
        load_prompts(four_k(path))
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_the_miniatures_prompts_are_held_out_and_a_longer_list_begins_with_the_shorter() -> None:
    few, many = (load_prompts(GenerationParams(prompts="miniature", count=n))["prompt"].tolist() for n in (5, 40))
    assert all(is_held_out(p) for p in many)
    assert len(set(many)) == 40
    assert many[:5] == few


def test_more_prompts_than_the_world_has_are_refused() -> None:
    with pytest.raises(ValueError, match="5000 held-out captions were asked for"):
        load_prompts(GenerationParams(prompts="miniature", count=5000))


def test_passing_prompts_over_leaves_the_numbers_of_the_rest(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a\nb\nc\nd\n")
    table = load_prompts(GenerationParams(prompts=tmp_path / "p.txt", skip=1, count=2))
    assert table[["prompt_index", "prompt"]].values.tolist() == [[1, "b"], [2, "c"]]
    fresh = load_prompts(GenerationParams(prompts="miniature", skip=3, count=4))
    assert (
        fresh["prompt"].tolist() == load_prompts(GenerationParams(prompts="miniature", count=7))["prompt"].tolist()[3:]
    )
    with pytest.raises(ValueError, match=r"holds no prompts after generation\.skip 4, only 4 in all"):
        load_prompts(GenerationParams(prompts=tmp_path / "p.txt", skip=4))


def test_shards_are_disjoint_and_together_are_the_whole_list() -> None:
    params = GenerationParams(prompts="miniature", count=5, seeds=(0, 1))
    whole = load_prompts(params)
    shards = [load_prompts(params.model_copy(update={"shard": f"{i}/3"})) for i in (1, 2, 3)]
    assert [len(s) for s in shards] == [4, 3, 3]
    together = pd.concat(shards).sort_values(["prompt_index", "seed"]).reset_index(drop=True)
    pd.testing.assert_frame_equal(together, whole)
    with pytest.raises(ValueError, match=r"shard: 11/11 is empty, there are only 10"):
        load_prompts(params.model_copy(update={"shard": "11/11"}))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_tables_may_name_a_first_frame_for_every_prompt(tmp_path: Path, suffix: str) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8), (name[0] == "a" and "red") or "blue").save(tmp_path / name)
    rows = [{"prompt": "a cat,  running", "first_frame": "a.png"}, {"prompt": "ein Bär", "first_frame": "b.png"}]
    if suffix == ".csv":
        pd.DataFrame(rows).to_csv(tmp_path / "p.csv", index=False)
    else:
        (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    table = load_prompts(GenerationParams(prompts=tmp_path / f"p{suffix}"))
    assert table["prompt"].tolist() == ["a cat, running", "ein Bär"]
    assert table["first_frame"].tolist() == [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    assert table["first_frame_sha256"].nunique() == 2


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.csv", "text\na cat\n", r"p\.csv, line 2: no text in .* has no column prompt; it has text$"),
        ("p.csv", "prompt;seed\na;1\n", r"it has prompt;seed \(columns are separated by commas\)"),
        ("p.csv", "prompt,first_frame\na,no.png\n", r"line 2: there is no first_frame 'no\.png'"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": ', r"p\.jsonl, line 2 is not JSON"),
        ("p.jsonl", '{"prompt": 3}', r"line 1: no text in the column"),
        ("p.jsonl", '["a"]', r"line 1: no text in the column"),
        ("p.jsonl", '{"prompt": "a", "first_frame": "p.jsonl"}\n{"prompt": "b"}', "line 1 has a first_frame, others"),
        ("p.yml", "- a", r"p\.yml is not \.txt, \.csv or \.jsonl"),
    ],
)
def test_a_bad_entry_is_named_by_file_and_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_prompts(GenerationParams(prompts=tmp_path / name))


def test_a_file_that_is_not_there_or_not_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.txt does not exist"):
        load_prompts(GenerationParams(prompts=tmp_path / "none.txt"))


@pytest.mark.parametrize(
    ("name", "content", "said", "encoding"),
    [
        ("my prompts.txt", b"a cat\na caf\xe9\n", "line 2: byte 0xe9 is not UTF-8", "WINDOWS-1252"),
        ("p.csv", b"prompt\na cat\na caf\xe9\n", "line 3: byte 0xe9 is not UTF-8", "WINDOWS-1252"),
        ("p.txt", "a cat".encode("utf-16"), "line 1: byte 0xff is not UTF-8", "UTF-16"),
    ],
)
def test_what_is_not_utf8_is_named_with_a_command_that_makes_it_readable(
    tmp_path: Path, name: str, content: bytes, said: str, encoding: str
) -> None:
    path, new = tmp_path / name, tmp_path / f"{Path(name).stem}_utf8{Path(name).suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not UTF-8") as caught:
        load_prompts(GenerationParams(prompts=path))
    command = f"iconv -f {encoding} -t UTF-8 {shlex.quote(str(path))} > {shlex.quote(str(new))}"
    assert str(caught.value) == f"{path}, {said}; save it as UTF-8, for example `{command}`"
    if shutil.which("iconv"):
        subprocess.run(command, shell=True, check=True)
        assert "a cat" in set(load_prompts(GenerationParams(prompts=new))["prompt"])


# What a file of prompts holds, and the prompts that are in it.
ENDS = {
    "line separator": ("p.txt", "a\u2028cat\na dog\n", ["a cat", "a dog"]),
    "next line": ("p.txt", "a\x85cat\r\na dog", ["a cat", "a dog"]),
    "form feed": ("p.txt", "a\fcat\na dog\n\n", ["a cat", "a dog"]),
    "mixed ends": ("p.txt", "\ufeffa cat\r\na dog\n", ["a cat", "a dog"]),
    "old Mac": ("p.txt", "a cat\ra dog\r", ["a cat", "a dog"]),
    "JSON": ("p.jsonl", '{"prompt": "a\u2028cat"}\n{"prompt": "a\x85dog"}\r\n\n', ["a cat", "a dog"]),
    "CSV": ("p.csv", "\ufeffprompt\r\na\u2028cat\r\na\x85dog\r\n", ["a cat", "a dog"]),
    "CSV over lines": ("p.csv", 'prompt\n"a\ncat"\na dog\n', ["a cat", "a dog"]),
    "words that pandas guesses": ("p.csv", "prompt\nNone\nNA\nTrue\n007\n", ["None", "NA", "True", "007"]),
    "the same as text": ("p.txt", "None\nnan\n1984\n", ["None", "nan", "1984"]),
    "the same as JSON": ("p.jsonl", '{"prompt": "null"}\n{"prompt": "1984"}\n', ["null", "1984"]),
    "formula": ("p.csv", 'prompt\n=1+1\n"says ""hi"", waves"\n', ["=1+1", 'says "hi", waves']),
}


@pytest.mark.parametrize("case", ENDS)
def test_lines_end_where_the_file_says_and_text_stays_text(tmp_path: Path, case: str) -> None:
    name, content, prompts = ENDS[case]
    (tmp_path / name).write_bytes(content.encode())
    assert load_prompts(GenerationParams(prompts=tmp_path / name))["prompt"].tolist() == prompts


def test_fewer_prompts_than_asked_for_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "p.txt").write_text("a\nb\nc\n")
    assert len(load_prompts(GenerationParams(prompts=tmp_path / "p.txt", skip=1, count=2))) == 2
    assert not caplog.records
    assert len(load_prompts(GenerationParams(prompts=tmp_path / "p.txt", skip=1, count=64))) == 2
    (record,) = caplog.records
    assert record.levelname == "WARNING" and "count asks for 64 prompts after skip 1" in record.getMessage()


def test_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    for name in ("n" * 300 + ".txt", "n/" * 3000 + "p.txt"):
        with pytest.raises(ValueError, match=r"generation\.prompts: .*n.* cannot be a path") as caught:
            load_prompts(GenerationParams(prompts=tmp_path / name))
        assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)
