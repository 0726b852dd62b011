"""The miniature's scenes as they truly look, at any size."""

import numpy as np
import torch
from torch import Tensor

from vibe_pipeline.generation.clip_cache import Rows, Scale
from vibe_pipeline.miniature.scene import scene_of_prompt
from vibe_pipeline.miniature.world import render


def true_renders(rows: Rows, size: Scale) -> Tensor:
    """The scenes of these (prompt, seed) rows, pixels [B, 3, T, H, W] in [0, 1]."""
    clips = [render(scene_of_prompt(r["prompt"], r["seed"]), size.height, size.width, size.frames) for r in rows]
    return torch.from_numpy(np.stack(clips)).permute(0, 4, 1, 2, 3)
