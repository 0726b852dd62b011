"""Both stages and a clip on a quantised base, beside the same on the whole one; where its package is."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from vibe_pipeline.diffusion.quantisation import QUANTISATIONS, package_of
from vibe_pipeline.experiment.adapters import AdapterParams
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.experiment.training import Stage1Params
from vibe_pipeline.generation.render import arm_clips
from vibe_pipeline.io.video import read_clip
from vibe_pipeline.training.distributed import no_log
from vibe_pipeline.training.stages import stage1_job, stage2_job, train

GENERATION = GenerationParams(prompts="miniature", native_steps=1)
PROMPT = "a striped red circle moving left over woven navy"


@pytest.mark.parametrize("kind", sorted(QUANTISATIONS))
def test_both_stages_train_and_a_clip_is_near_the_whole_bases(wan21, make_cache, tmp_path: Path, kind: str) -> None:
    """In 16 bit, stage 1 frozen beside the bytes; nothing of one base is taken for the other's."""
    package, _ = package_of(kind)
    if package:
        pytest.importorskip(package, reason=f"model.quantisation needs the extra {package}")
    shape = {"lora": {"rank": 2, "alpha": 4}, "steps": 2, "batch_size": 2, "optimiser": {"learning_rate": 1e-3}}
    native = pd.DataFrame([{"prompt_index": 0, "prompt": PROMPT, "seed": 0, "key": "n", "path": ""}])
    losses, clips = [], []
    for quantisation in (None, kind):
        model, cache = wan21.model(dtype="bfloat16", quantisation=quantisation), make_cache()
        first = train(stage1_job("d1", cache, model, Stage1Params(**shape), tmp_path), no_log)
        second = train(stage2_job("d2", cache, first, model, AdapterParams(label="d2", **shape), tmp_path), no_log)
        losses.append(second.held_out_loss)
        arm = ArmParams(label="a", method="direct", adapter="d2", keep_stage1=True, steps=2, guidance_scale=1.0)
        made = arm_clips("a", arm, native, second, first, model, GENERATION, tmp_path)
        clips.append(read_clip(Path(made["path"][0])))
    assert losses[0] != losses[1] == pytest.approx(losses[0], rel=0.05)
    assert 0 < np.abs(clips[0] - clips[1]).mean() < 0.1 * clips[0].std()
