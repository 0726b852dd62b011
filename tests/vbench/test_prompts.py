"""VBench's prompts and the protocols over them, against the package's own list."""

import json
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest

from vibe_pipeline.vbench import prompts as protocol
from vibe_pipeline.vbench.prompts import auxiliary_info, clips_per_dimension, official_prompts, protocol_prompts
from vibe_pipeline.vbench.totals import DIMENSIONS

pytestmark = pytest.mark.skipif(find_spec("vbench") is None, reason="vbench is not installed")
COLUMNS = ["prompt_index", "prompt", "seed", "dimensions"]


@pytest.fixture(scope="module")
def package():
    """The list as it stands in the package."""
    return json.loads(Path(find_spec("vbench").origin).with_name("VBench_full_info.json").read_text())


def test_every_prompt_once_with_all_its_dimensions(package):
    prompts = official_prompts()
    assert len(package) == 946 and len(prompts) == prompts["prompt"].nunique() == 944
    ours = {(row.prompt, name) for row in prompts.itertuples() for name in row.dimensions.split(";")}
    assert ours == {(entry["prompt_en"], name) for entry in package for name in entry["dimension"]}
    assert {name for _, name in ours} == set(DIMENSIONS)


def test_auxiliary_info_is_the_packages(package):
    info = auxiliary_info()
    assert info["alley", "scene"] == {"scene": {"scene": "alley"}}
    assert len(info) == sum(len(entry.get("auxiliary_info", {})) for entry in package)


def test_standard_protocol():
    table = protocol_prompts("vbench_standard", None, (7, 99), 0)
    assert list(table.columns) == COLUMNS
    counts = table.groupby("prompt")["seed"].agg(list)
    flicker = set(official_prompts().query("dimensions.str.contains('temporal_flickering')")["prompt"])
    assert len(flicker) == 75 and len(counts) == 944
    assert all(seeds == list(range(7, 32 if prompt in flicker else 12)) for prompt, seeds in counts.items())
    assert len(table) == 944 * 5 + 75 * 20 == 6220
    assert (table["prompt"] == official_prompts()["prompt"].loc[table["prompt_index"]].to_numpy()).all()


def test_standard_protocol_of_named_dimensions():
    table = protocol_prompts("vbench_standard", None, (0,), 0, ("scene", "subject consistency"))
    assert len(table) == (86 + 72) * 5
    assert set(table["dimensions"]) == {
        "background_consistency;scene",
        "subject_consistency;motion_smoothness;dynamic_degree",
    }
    assert len(protocol_prompts("vbench_standard", None, (0,), 0, ("temporal_flickering",))) == 75 * 25


def test_subset_is_spread_seeded_and_grows():
    table = protocol_prompts("vbench_subset", None, (3, 4), 0)
    assert list(table.columns) == COLUMNS and len(table) == 256 and table["prompt"].nunique() == 128
    assert set(table["seed"]) == {3, 4} and table["prompt_index"].is_monotonic_increasing
    per_dimension = Counter(
        name for names in table.drop_duplicates("prompt")["dimensions"] for name in names.split(";")
    )
    assert set(per_dimension) == set(DIMENSIONS)
    assert max(per_dimension.values()) - min(per_dimension.values()) <= 2
    assert table.equals(protocol_prompts("vbench_subset", 128, (3, 4), 0))
    assert not table["prompt"].equals(protocol_prompts("vbench_subset", None, (3, 4), 1)["prompt"])
    assert set(protocol_prompts("vbench_subset", 20, (0,), 0)["prompt"]) < set(table["prompt"])


def test_subset_of_named_dimensions_may_take_all():
    table = protocol_prompts("vbench_subset", 72, (0,), 5, ("motion_smoothness",))
    assert len(table) == 72 and table["dimensions"].str.contains("motion_smoothness").all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("vbench_standard", 10, (0,), 0), "count = 10 is not"),
        (("vbench_subset", 0, (0,), 0), "between 1 and 944"),
        (("vbench_subset", 73, (0,), 0, ("dynamic_degree",)), "count = 73: VBench has between 1 and 72"),
        (("vbench_subset", 1, (), 0), "seeds is empty"),
        (("vbench_long", None, (0,), 0), "unknown protocol 'vbench_long'"),
        (("vbench_subset", 1, (0,), 0, ("beauty",)), "unknown VBench dimension 'beauty'"),
    ],
)
def test_wrong_input_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        protocol_prompts(*arguments)


def test_without_the_package_it_says_how_to_install(monkeypatch):
    monkeypatch.setattr(protocol.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"evaluation-nodeps\.txt"):
        official_prompts()


def test_custom_is_the_prompts_of_overall_consistency_and_grows(package):
    table = protocol_prompts("vbench_custom", None, (0, 1), 0)
    theirs = [e["prompt_en"] for e in package if "overall_consistency" in e["dimension"]]
    assert list(table.columns) == COLUMNS[:3] and len(table) == 2 * 93
    assert sorted(set(table["prompt"])) == sorted(theirs) and table["prompt_index"].is_monotonic_increasing
    assert (table["prompt"] == official_prompts()["prompt"].loc[table["prompt_index"]].to_numpy()).all()
    some, more = (set(protocol_prompts("vbench_custom", n, (0,), 0)["prompt"]) for n in (10, 64))
    assert len(some) == 10 and len(more) == 64 and some < more < set(theirs)
    assert more != set(protocol_prompts("vbench_custom", 64, (0,), 1)["prompt"])
    with pytest.raises(ValueError, match="count = 94: VBench has between 1 and 93"):
        protocol_prompts("vbench_custom", 94, (0,), 0)
    with pytest.raises(ValueError, match=r"prompt_dimensions \['scene'\]: vbench_custom scores every dimension"):
        protocol_prompts("vbench_custom", 4, (0,), 0, ("scene",))


def test_clips_of_each_dimension():
    """What each protocol defines; labels of VBench's own prompts are what custom ones lack."""
    names = ("subject_consistency", "overall consistency", "temporal_flickering", "scene")
    custom = protocol_prompts("vbench_custom", 64, (0,), 0)
    expected = {"subject_consistency": 64, "overall_consistency": 64, "temporal_flickering": 64, "scene": 0}
    assert clips_per_dimension(custom, names) == expected
    subset = protocol_prompts("vbench_subset", 16, (0, 1), 0)
    listed = subset["dimensions"].str.split(";")
    counts = clips_per_dimension(subset, names)
    assert counts == {n: sum(n in own for own in listed) for n in expected} and 0 < counts["scene"] <= 4
    with pytest.raises(ValueError, match="beauty"):
        clips_per_dimension(custom, ("beauty",))
