"""What determines a clip is in its key: a setting left out would hand back clips that were made with another."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.generation.render import arm_clips, native_clips
from vibe_pipeline.io.video import write_lossless

CAPTION = "a striped red circle moving left over woven navy"
PARAMS = GenerationParams(prompts="miniature", native_steps=1, native_guidance_scale=1.0)
ARM = ArmParams(label="a", method="upsample")  # made without a model, under the same key as any other
STAGE1 = {"key": "d1", "path": "", "name": "d1"}
MODEL_CHANGES: list[dict[str, Any]] = [
    {"flow_shift": 3.0},
    {"dtype": "bfloat16"},
    {"vae_dtype": "bfloat16"},
    {"tile": 64},
    {"text_length": 16},
]


@pytest.fixture
def native(tmp_path: Path) -> pd.DataFrame:
    path = write_lossless(tmp_path / "native.mp4", np.full((5, 32, 48, 3), 0.5, np.float32), 8)
    row = {"prompt_index": 0, "prompt": CAPTION, "seed": 0, "key": "n", "path": str(path)}
    return pd.DataFrame([row | {"preview_path": "", "seconds": 1.0}])


def test_every_setting_of_an_arm_is_in_its_clips_keys(wan21, native, tmp_path: Path) -> None:
    def key(
        arm: ArmParams = ARM,
        rows: pd.DataFrame = native,
        adapter: dict[str, Any] | None = None,
        stage1: dict[str, Any] | None = None,
        params: GenerationParams = PARAMS,
        **model: Any,
    ) -> str:
        return arm_clips("a", arm, rows, adapter, stage1, wan21.model(**model), params, tmp_path)["key"][0]

    def of(**changes: Any) -> ArmParams:
        return ARM.model_copy(update=changes)

    keys = [
        key(),
        key(params=PARAMS.model_copy(update={"negative_prompt": "blurred"})),
        key(adapter={"key": "one"}),
        key(adapter={"key": "two"}),
        key(of(keep_stage1=True), stage1=STAGE1),
        key(of(keep_stage1=True), stage1=STAGE1 | {"key": "other"}),
        key(rows=native.assign(seed=1)),
        key(rows=native.assign(key="other")),
        key(rows=native.assign(prompt="a plain blue cross moving up over ribbed gray")),
        key(rows=native.assign(first_frame_sha256="of a picture")),
        *(key(of(**{name: value})) for name, value in {"strength": 0.5, "steps": 7, "guidance_scale": 2.0}.items()),
        *(key(of(**{name: value})) for name, value in {"flow_shift": 9.0, "scheduler": "unipc"}.items()),
        *(key(**change) for change in MODEL_CHANGES),
    ]
    assert len(set(keys)) == len(keys)
    assert key(of(label="renamed")) == key(stage1=STAGE1) == keys[0]  # stage 1 counts where it is kept alone


def test_every_setting_of_the_native_pass_is_in_its_clips_keys(wan21, tmp_path: Path) -> None:
    prompts = pd.DataFrame([{"prompt_index": 0, "prompt": CAPTION, "seed": 0}])

    def key(model: dict[str, Any] | None = None, **changes: Any) -> str:
        params = PARAMS.model_copy(update=changes)
        return native_clips(prompts, wan21.model(**(model or {})), params, tmp_path)["key"][0]

    keys = [
        key(),
        key(negative_prompt="a plain green square"),
        key(native_steps=2),
        key(native_guidance_scale=2.0),
        key(native_scheduler="unipc"),
        key(native_source="truth"),
        key({"flow_shift": 3.0}),
    ]
    assert len(set(keys)) == len(keys)
    assert key({"target": {"height": 96, "width": 96, "frames": 5}}) == keys[0]  # arms of every size share them
