"""The two passes of guidance over a tiny transformer, each with a text of its own, as a run makes them."""

from collections.abc import Sequence

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from vibe_pipeline.diffusion.models import velocity_predictor
from vibe_pipeline.diffusion.objectives import Predict
from vibe_pipeline.diffusion.step_cache import in_context

PASSES = ("conditional", "unconditional")
TEXTS = torch.randn(2, 1, 12, 64, generator=torch.Generator().manual_seed(1))
"""[pass, clip, token, channel]"""


def start(channels: int = 16, clips: int = 1) -> Tensor:
    """Noise [clips, channels, 2, 8, 12], the same at every call."""
    return torch.randn(clips, channels, 2, 8, 12, generator=torch.Generator().manual_seed(2))


def predictors(transformer: WanTransformer3DModel, texts: Sequence[Tensor] | Tensor = TEXTS) -> list[Predict]:
    """One for each text [clip, token, channel]; Wan2.2-TI2V, known by its 48 channels, takes a timestep a token."""
    per_token = transformer.config.in_channels == 48
    return [velocity_predictor(transformer, text, per_token, torch.float32) for text in texts]


def passes(transformer: WanTransformer3DModel, texts: Sequence[Tensor] | Tensor = TEXTS) -> list[Predict]:
    """Both, each in a context of its own: what a cache or a search keeps of one is not the other's."""
    pairs = zip(PASSES, predictors(transformer, texts), strict=True)
    return [in_context(transformer, name, predict) for name, predict in pairs]
