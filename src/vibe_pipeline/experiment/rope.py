"""Rotary positions of a row: `RopeParams`, with the fields of every kind of `diffusion.rope.ROPES`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field

from vibe_pipeline.diffusion.rope import ROPES, known_rope
from vibe_pipeline.experiment.kinds import KindParams, kind_params


class _Rope(KindParams):
    """Where tokens stand, as RoPE has it."""

    kind: Annotated[str, AfterValidator(known_rope)] = Field("none", description="an entry of `diffusion.rope.ROPES`")

    @classmethod
    def entries(cls) -> Mapping[str, type]:
        """Those there are."""
        return ROPES


if TYPE_CHECKING:

    class RopeParams(_Rope):
        """With the fields of its entries, which only a run knows."""

        def __getattr__(self, name: str) -> Any: ...

else:
    RopeParams = kind_params("RopeParams", _Rope, "kind of RoPE", ROPES.values())
