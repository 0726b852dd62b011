"""Every importable dimension, on stand-in weights: equal to stock `VBench.evaluate` on the same clips and files."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from vibe_pipeline.vbench.dimensions import REGISTRY
from vibe_pipeline.vbench.prompts import official_prompts
from vibe_pipeline.vbench.run import Scoring
from vibe_pipeline.vbench.score import score_vbench

pytestmark = [
    pytest.mark.skipif(find_spec("vbench") is None, reason="vbench is not installed"),
    pytest.mark.filterwarnings("ignore"),
]
CUSTOM = (
    "subject_consistency",
    "background_consistency",
    "temporal_flickering",
    "motion_smoothness",
    "aesthetic_quality",
    "imaging_quality",
    "dynamic_degree",
    "temporal_style",
    "overall_consistency",
)
STANDARD = ("appearance_style", "human_action")


def stock(folder, dimension, weights, out, mode, prompts=None):
    """File name to score, from VBench's own call; only its surroundings are ours."""
    import torch
    from vbench import VBench

    from vibe_pipeline.vbench.compat import compatible
    from vibe_pipeline.vbench.surroundings import offline, point_to_cache, quiet

    info = Path(find_spec("vbench").origin).with_name("VBench_full_info.json")
    with offline(weights, out), quiet(), compatible(dimension):
        point_to_cache(weights)
        VBench(torch.device("cpu"), str(info), str(out)).evaluate(
            str(folder), dimension, prompt_list=prompts or [], dimension_list=[dimension], local=True, mode=mode
        )
    _, clips = json.loads((out / f"{dimension}_eval_results.json").read_text())[dimension]
    return {Path(clip["video_path"]).name: clip["video_results"] * REGISTRY[dimension].clip_scale for clip in clips}


# RAFT takes seconds a pair of frames on one core, and cannot take the low clip: its correlations have four levels.
SHORT = ("dynamic_degree",)


def clips_of(dimension, moving_clips):
    return moving_clips.head(1) if dimension in SHORT else moving_clips


@pytest.fixture(scope="module")
def ours(moving_clips, weights, standins, tmp_path_factory):
    """All nine dimensions of custom prompts."""
    scoring = Scoring(weights, tmp_path_factory.mktemp("ours"))
    with standins.shallow():
        tables = [
            score_vbench(moving_clips, [name for name in CUSTOM if name not in SHORT], scoring),
            score_vbench(clips_of("dynamic_degree", moving_clips), SHORT, scoring),
        ]
    return pd.concat(tables, ignore_index=True)


@pytest.mark.parametrize("dimension", CUSTOM)
def test_custom_prompts_equal_the_stock_call(dimension, ours, moving_clips, weights, standins, tmp_path):
    clips = clips_of(dimension, moving_clips)
    (tmp_path / "clips").mkdir()
    for path in clips["path"]:
        shutil.copy(path, tmp_path / "clips")
    prompts = {Path(row.path).name: row.prompt for row in clips.itertuples()}
    with standins.shallow():
        theirs = stock(tmp_path / "clips", dimension, weights, tmp_path, "custom_input", prompts)
    rows = ours[ours["metric"] == dimension]
    assert set(rows["status"]) == {"scored"}, rows["reason"].iloc[0]
    expected = [theirs[Path(path).name] for path in clips["path"]]
    np.testing.assert_allclose(rows["value"], expected, atol=1e-4 if dimension != "temporal_flickering" else 0)


def test_the_stand_ins_tell_clips_apart(ours):
    """Else equality would say nothing; dynamic_degree is yes or no."""
    spread = ours.groupby("metric")["value"].agg(lambda values: values.max() - values.min())
    assert (spread.drop("dynamic_degree") > 2e-4).all(), spread.to_dict()


@pytest.mark.parametrize("dimension", STANDARD)
def test_standard_prompts_equal_the_stock_call(dimension, moving_clips, weights, standins, tmp_path):
    """The labels come from VBench's list, and human_action reads the action from the file's name."""
    prompts = {"A person is clapping": "human_action", "A person is drawing": "human_action"}
    styled = official_prompts().query("dimensions == 'appearance_style'")["prompt"].iloc[:2]
    prompts |= dict.fromkeys(styled, "appearance_style")
    mine = [prompt for prompt, name in prompts.items() if name == dimension]
    (tmp_path / "clips").mkdir()
    rows = []
    for number, prompt in enumerate(mine):
        row = moving_clips.iloc[number].to_dict() | {"prompt": prompt, "dimensions": dimension}
        shutil.copy(row["path"], tmp_path / "clips" / f"{prompt}-0.mp4")
        rows.append(row)
    with standins.shallow():
        theirs = stock(tmp_path / "clips", dimension, weights, tmp_path, "vbench_standard")
        table = score_vbench(pd.DataFrame(rows), [dimension, "imaging_quality"], Scoring(weights, tmp_path / "work"))
    table = table.set_index("metric")
    assert table.loc["imaging_quality", "status"] == "skipped"
    assert "none of these clips' prompts" in table.loc["imaging_quality", "reason"]
    values = table.loc[[dimension], "value"]
    np.testing.assert_allclose(values, [theirs[f"{prompt}-0.mp4"] for prompt in mine], atol=1e-4)
    assert values.iloc[0] != values.iloc[1]
