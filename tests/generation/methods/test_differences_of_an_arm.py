"""A few-step LoRA with differences in a row of `arms`: the clip is that of weights changed by hand."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.diffusion.test_lora_differences import DISTINCT, few_step_file
from vibe_pipeline.diffusion.lora_formats import import_adapter
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.generation.render import arm_clips
from vibe_pipeline.io.video import read_clip

GENERATION = GenerationParams(prompts="miniature")
NATIVE = pd.DataFrame([{"prompt_index": 0, "prompt": "a cat", "seed": 3, "path": "none.mp4", "key": "k"}])


def test_an_arm_that_asks_for_them_runs_with_them(wan21, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    changed = few_step_file(wan21.transformer(), tmp_path / "few.safetensors")
    merged = shutil.copytree(wan21.path, tmp_path / "merged")
    changed.save_pretrained(merged / "transformer")
    adapter = import_adapter(tmp_path / "few.safetensors", tmp_path / "ours", differences=True).path

    def clip(model: object, **extra: object) -> np.ndarray:
        extras = [{"path": adapter} | extra] if extra else []
        arm = ArmParams(label="a", method="direct", steps=1, guidance_scale=1.0, extra_adapters=extras)
        made = arm_clips("a", arm, NATIVE, None, None, model, GENERATION, tmp_path / "clips")
        return read_clip(Path(made["path"][0]))

    by_hand = clip(wan21.model(path=str(merged)))
    with caplog.at_level(logging.INFO):
        asked = clip(wan21.model(), differences=True)
    assert f"{len(DISTINCT)} parameters changed by {adapter.with_name('differences.safetensors')}" in caplog.text
    np.testing.assert_allclose(asked, by_hand, atol=2 / 255)
    without = clip(wan21.model(), differences=False)
    assert np.abs(without - by_hand).max() > 10 / 255
