"""Text stays text in every table: arbitrary text goes in, and comes out as it was, types and all."""

import csv
import json
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kedro.io import AbstractDataset
from PIL import Image

from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.generation.methods import external
from vibe_pipeline.generation.prompts import load_prompts
from vibe_pipeline.images import check_images, find_images

CATALOG = yaml.safe_load(Path("conf/base/catalog.yml").read_text())
# Columns of text of every table in the catalog, and of numbers.
TABLES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "usable_images": (("file_name", "path", "caption", "caption_source", "mode", "sha256"), ("width", "height")),
    "image_quarantine": (("file_name", "reason", "value"), ()),
    "degradation_checks": (("kind",), ("mse_degraded",)),
    "prompts": (("prompt", "dimensions", "first_frame", "first_frame_sha256"), ("prompt_index", "seed")),
    "native_clips": (("prompt", "key", "path", "preview_path"), ("prompt_index", "seed", "seconds")),
    "reference_clips": (("prompt", "key", "path"), ("prompt_index", "seed", "seconds")),
    "clips-{arm}": (("arm", "prompt", "path", "reference_path", "native_source"), ("seed", "seconds", "sigma_start")),
    "clips": (("arm", "prompt", "path", "reference_path", "native_source"), ("seed", "seconds", "sigma_start")),
    "scores-{arm}": (("arm", "metric", "direction", "reason"), ("value",)),
    "own_scores": (("arm", "metric", "direction", "reason"), ("value",)),
    "spectrum-{arm}": (("arm",), ("cycles", "power")),
    "spectra": (("arm",), ("cycles", "power")),
    "vbench_scores": (("arm", "metric", "reason"), ("value",)),
    "scores": (("arm", "metric", "reason"), ("value",)),
    "claims_table": (("claim", "verdict", "corrected", "metric", "reading", "reason"), ("margin", "difference")),
    "ablation_table": (("arm", "metric", "direction", "family", "status", "reason"), ("mean", "n")),
}
GUESSED = ("None", "NA", "nan", "null", "1984", "007", "1e5", "True", "", " ", "=1+1", "-", "#", '"', "a,b", "\r")
SPACED = (" a", "a ", "a\nb", "a\r\nb", "a\tb", "a\u2028b", "a\x85b", "a\fb", "\ufeffa")
ODD = (*SPACED, "é", "日本", "🤖", "'a'", '"a"', "\x00", "x" * 70_000)
ANY = st.one_of(st.sampled_from(GUESSED + ODD), st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
NUMBER = st.floats(allow_nan=True, allow_infinity=False)
FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def frame(text: tuple[str, ...], numbers: tuple[str, ...]) -> st.SearchStrategy[pd.DataFrame]:
    row = st.fixed_dictionaries(dict.fromkeys(text, ANY) | dict.fromkeys(numbers, NUMBER))
    types = dict.fromkeys(text, "str") | dict.fromkeys(numbers, "float64")
    return st.lists(row, min_size=1, max_size=5).map(lambda rows: pd.DataFrame(rows).astype(types))


def test_every_table_of_the_catalog_is_tried() -> None:
    kinds = ("Table", "pandas.CSVDataset", "pandas.ParquetDataset")
    tables = [name for name, entry in CATALOG.items() if entry["type"].endswith(kinds)]
    assert sorted(tables) == sorted(TABLES)


@pytest.mark.parametrize("name", TABLES)
@FEW
@given(data=st.data())
def test_a_table_comes_back_as_it_was(name: str, data: st.DataObject) -> None:
    table = data.draw(frame(*TABLES[name]))
    with tempfile.TemporaryDirectory() as folder:
        entry = CATALOG[name] | {"filepath": f"{folder}/{Path(CATALOG[name]['filepath']).name}"}
        dataset = AbstractDataset.from_config(name, entry)
        dataset.save(table)
        back = dataset.load()
        preview = dataset.preview(2) if entry["type"].endswith("ExactTable") else None
    text, numbers = TABLES[name]
    pd.testing.assert_frame_equal(back[list(text)], table[list(text)])
    for column in numbers:  # whole floats may come back as whole numbers
        np.testing.assert_array_equal(back[column].astype("float64"), table[column])
    assert preview is None or len(preview["data"]) == min(2, len(table))


def collapsed(text: str) -> str:
    return " ".join(text.split())


CAPTION = ANY.filter(lambda text: "\0" not in text and len(text) < 60_000)


def in_csv(path: Path, columns: dict[str, list[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def in_lines(path: Path, columns: dict[str, list[str]]) -> None:
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    # Not only ASCII, as U+2028 and U+0085 are then in the file as they are.
    path.write_text("\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8", newline="")


WRITERS = {"csv": in_csv, "jsonl": in_lines}


@pytest.mark.parametrize("suffix", WRITERS)
@FEW
@given(captions=st.lists(CAPTION, min_size=1, max_size=5))
def test_captions_of_metadata(suffix: str, captions: list[str]) -> None:
    names = [f"{i}.png" for i in range(len(captions))]
    with tempfile.TemporaryDirectory() as folder:
        for i, name in enumerate(names):
            Image.new("RGB", (8, 8), (i, 0, 0)).save(Path(folder, name))
        WRITERS[suffix](Path(folder, f"metadata.{suffix}"), {"file_name": names, "text": captions})
        found = find_images(Path(folder))
        usable, quarantine = check_images(found, [(8, 8)], 10**6)
    assert found["caption"].tolist() == [collapsed(text) for text in captions]
    words = {name for name, text in zip(names, captions, strict=True) if any(letter.isalnum() for letter in text)}
    assert set(usable["file_name"]) == words
    assert set(quarantine["file_name"]) == set(names) - words


@FEW
@given(caption=CAPTION)
def test_captions_of_text_files(caption: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "a.png").write_bytes(b"not decoded here")
        Path(folder, "a.txt").write_bytes(caption.encode())
        (found,) = find_images(Path(folder))["caption"]
    assert found == collapsed(caption.removeprefix("\ufeff"))


def is_prompt(text: str) -> bool:
    controls = any(ord(letter) < 32 or 127 <= ord(letter) < 160 for letter in collapsed(text))
    return any(letter.isalnum() for letter in text) and not controls


PROMPTS = st.lists(ANY.filter(is_prompt), min_size=1, max_size=5, unique_by=collapsed)


@pytest.mark.parametrize("suffix", WRITERS)
@FEW
@given(prompts=PROMPTS)
def test_prompts_of_a_table(suffix: str, prompts: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"p.{suffix}")
        WRITERS[suffix](path, {"prompt": prompts})
        table = load_prompts(GenerationParams(prompts=path))
    assert table["prompt"].tolist() == [collapsed(text) for text in prompts]


@FEW
@given(prompts=PROMPTS)
def test_prompts_of_a_text_file(prompts: list[str]) -> None:
    written = [text.replace("\n", " ").removeprefix("\ufeff") for text in prompts]
    lines = list({collapsed(text): text for text in written}.values())  # without their marks two may be one
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "p.txt")
        path.write_bytes("\n".join(["first", *lines]).encode())
        table = load_prompts(GenerationParams(prompts=path))
    assert [collapsed(text) for text in table["prompt"]] == ["first", *map(collapsed, lines)]


@FEW
@given(prompts=PROMPTS)
def test_prompts_of_another_systems_clips(prompts: list[str]) -> None:
    """Listed by their table, each is found by the prompt as the run has it."""
    found: dict[tuple[str, int], Path] = {}
    names = [f"{i}.mp4" for i in range(len(prompts))]
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            Path(folder, name).touch()
        in_csv(Path(folder, "clips.csv"), {"file": names, "prompt": prompts, "seed": ["7"] * len(names)})
        found = external._listed(Path(folder))
    assert [found[collapsed(text), 7].name for text in prompts] == names
