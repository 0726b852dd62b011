"""A row's step cache: `StepCacheParams`, with the fields of every entry of `diffusion.step_cache.STEP_CACHES`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field

from vibe_pipeline.diffusion.step_cache import STEP_CACHES, known_step_cache
from vibe_pipeline.experiment.kinds import KindParams, kind_params


class _StepCache(KindParams):
    """Which denoising steps take over what an earlier one computed."""

    kind: Annotated[str, AfterValidator(known_step_cache)] = Field(
        "taylor", description="an entry of `diffusion.step_cache.STEP_CACHES`"
    )

    @classmethod
    def entries(cls) -> Mapping[str, type]:
        """Those there are."""
        return STEP_CACHES


if TYPE_CHECKING:

    class StepCacheParams(_StepCache):
        """With the fields of its entries, which only a run knows."""

        def __getattr__(self, name: str) -> Any: ...

else:
    StepCacheParams = kind_params("StepCacheParams", _StepCache, "step cache", STEP_CACHES.values())
