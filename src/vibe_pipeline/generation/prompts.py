"""The prompts of a run: a file, or the miniature's held-out captions."""

import numpy as np
import pandas as pd

from vibe_pipeline.config import GenerationParams
from vibe_pipeline.miniature.scene import sample_scenes

HELD_OUT_SEED = 20_260


def load_prompts(params: GenerationParams) -> pd.DataFrame:
    """One row per (prompt, seed): prompt_index, prompt, seed.

    Raises:
        ValueError: No prompts, or the same one twice; names the file and the line.
    """
    if params.prompts == "miniature":
        count = params.count or 64
        prompts = [s.caption for s in sample_scenes(np.random.default_rng(HELD_OUT_SEED), count, held_out=True)]
    else:
        lines = params.prompts.read_text(encoding="utf-8").splitlines()
        prompts = [line.strip() for line in lines if line.strip()][: params.count]
        twice = sorted({p for p in prompts if prompts.count(p) > 1})
        if twice:
            raise ValueError(
                f"{params.prompts}: {twice[0]!r} stands twice; scores are paired by prompt, list each once"
            )
    if not prompts:
        raise ValueError(f"{params.prompts} holds no prompts")
    return pd.DataFrame(
        [{"prompt_index": i, "prompt": p, "seed": s} for i, p in enumerate(prompts) for s in params.seeds]
    )
