"""What the tests of step caches share."""

from collections.abc import Iterator

import pytest
from diffusers import WanTransformer3DModel

from vibe_pipeline.diffusion.step_cache import remove_step_cache


@pytest.fixture
def transformer(wan21) -> Iterator[WanTransformer3DModel]:
    """A transformer of Wan2.1 that goes without its step cache afterwards."""
    yield (made := wan21.transformer().eval().requires_grad_(False))
    remove_step_cache(made)
