"""Self-attention of a row, in training or at inference: `AttentionParams`, with the fields of every attention kind."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import AfterValidator, Field, PositiveFloat, model_validator

from vibe_pipeline.diffusion.attention.kinds import KINDS, AttentionKind, kind_of, known_kind
from vibe_pipeline.diffusion.attention.scales import known_scale
from vibe_pipeline.experiment.kinds import KindParams, kind_params


class _Attention(KindParams):
    """What every kind has; sizes in tokens."""

    # They stood in the keys of the first clips whatever the kind, and those clips still count.
    in_every_key = frozenset({"half_window", "pool"})
    later = frozenset({"deep_from", "deep_pool"})

    kind: Annotated[str, AfterValidator(known_kind)] = Field("full", description="an entry of `attention.kinds.KINDS`")
    scale: PositiveFloat | Annotated[str, AfterValidator(known_scale)] | None = Field(
        None, description="of the scores; None: 1 / sqrt(head dim); or a name in `attention.scales.SCALES`"
    )

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        kind_of(self)  # a kind refuses fields of its own that exclude each other
        return self

    @classmethod
    def entries(cls) -> Mapping[str, type[AttentionKind]]:
        """Those there are."""
        return KINDS


def attention_params(kinds: Iterable[type[AttentionKind]]) -> type[_Attention]:
    """The model of a row's `attention`: kind, scale, and the fields of these kinds, as their entries declare them.

    Raises:
        TypeError: Two kinds declare a field of one name differently.
    """
    return kind_params("AttentionParams", _Attention, "attention kind", kinds)


if TYPE_CHECKING:

    class AttentionParams(_Attention):
        """With the fields of its entries, which only a run knows."""

        def __getattr__(self, name: str) -> Any: ...

else:
    AttentionParams = attention_params(KINDS.values())
