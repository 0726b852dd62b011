"""A metric is one entry: a toy one is measured, summarised and put into words."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from vibe_pipeline.evaluation import measure
from vibe_pipeline.evaluation.measure import measure_arm
from vibe_pipeline.evaluation.metrics.registry import FAMILIES, METRICS
from vibe_pipeline.evaluation.metrics.resolution import Measure
from vibe_pipeline.evaluation.metrics.temporal import StaticShare
from vibe_pipeline.evaluation.statistics import summarise
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.evaluation import EvaluationParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.io.video import write_lossless
from vibe_pipeline.reporting.blocks import ablation_blocks

EVALUATION = EvaluationParams(vbench_dimensions=("dynamic_degree",), fine_band=(13.0, 20.0), reference_arm="a")
PROMPTS = GenerationParams(prompts=Path("prompts.txt"))


@pytest.fixture
def clips(tmp_path: Path) -> pd.DataFrame:
    pixels = np.random.default_rng(0).random((3, 64, 64, 3), dtype=np.float32)
    path = str(write_lossless(tmp_path / "clip.mp4", pixels, 8))
    return pd.DataFrame([{"prompt_index": 0, "seed": 0, "prompt": "p", "path": path, "key": "k", "method": "refine"}])


def test_a_toy_metric_is_one_entry(clips: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = tmp_path / "m"
    measure_arm("a", clips, clips, EVALUATION, PROMPTS, memory)  # measured before the metric was there
    words = {"name": "toy", "label": "Toy", "explanation": "Always a half.", "direction": "lower"}
    monkeypatch.setitem(METRICS, "toy", Measure(**words, part=StaticShare, value=lambda part: 0.5))
    scores, _ = measure_arm("a", clips, clips, EVALUATION, PROMPTS, memory)
    assert scores.set_index("metric").loc["toy", ["value", "direction", "family"]].tolist() == [0.5, "lower", "detail"]
    table = summarise(scores, "a", samples=20)
    assert table.set_index("metric").loc["toy", "mean"] == 0.5
    arms = {"a": ArmParams(label="A", steps=1, strength=0.5)}
    columns = [c for block in ablation_blocks(table, scores, arms, {"a"}) for c in block.columns]
    assert ("Toy", "Always a half.", "↓") in [(c.label, c.explanation, c.arrow) for c in columns]


def test_every_metric_has_words_and_a_family_of_the_report() -> None:
    for name, metric in METRICS.items():
        assert metric.name == name and metric.label and metric.explanation.endswith(".")
        assert metric.family in FAMILIES


def test_a_renamed_arm_is_not_measured_again(
    clips: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured, stock = [], measure.measure_clip

    def counted(*args: object) -> object:
        measured.append(args)
        return stock(*args)

    monkeypatch.setattr(measure, "measure_clip", counted)
    first, _ = measure_arm("a", clips, clips, EVALUATION, PROMPTS, tmp_path / "m")
    assert len(measured) == 1
    renamed, _ = measure_arm("b", clips, clips, EVALUATION, PROMPTS, tmp_path / "m")
    assert len(measured) == 1
    pd.testing.assert_frame_equal(renamed, first.assign(arm="b"))
