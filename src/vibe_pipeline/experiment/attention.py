"""Self-attention of a row, in training or at inference: `AttentionParams`, with the fields of every attention kind."""

from collections.abc import Iterable
from dataclasses import fields
from typing import Annotated, Any, Self, get_type_hints

from pydantic import (
    AfterValidator,
    Field,
    PositiveFloat,
    SerializerFunctionWrapHandler,
    create_model,
    model_serializer,
    model_validator,
)

from vibe_pipeline.diffusion.attention.kinds import KINDS, AttentionKind, known_kind
from vibe_pipeline.diffusion.attention.scales import known_scale
from vibe_pipeline.experiment.groups import Params

_IN_EVERY_KEY = frozenset({"half_window", "pool"})
"""They stood in the keys of the first clips whatever the kind, and those clips still count."""


class _Attention(Params):
    """What every kind has; sizes in tokens."""

    kind: Annotated[str, AfterValidator(known_kind)] = Field("full", description="an entry of `attention.kinds.KINDS`")
    scale: PositiveFloat | Annotated[str, AfterValidator(known_scale)] | None = Field(
        None, description="of the scores; None: 1 / sqrt(head dim); or a name in `attention.scales.SCALES`"
    )

    @property
    def _own(self) -> set[str]:
        return {"kind", "scale"} | {field.name for field in fields(KINDS[self.kind])}

    @model_validator(mode="after")
    def _fields_are_the_kinds_own(self) -> Self:
        for name, info in type(self).model_fields.items():
            if name not in self._own and getattr(self, name) != info.default:
                owners = [kind.name for kind in KINDS.values() if name in {field.name for field in fields(kind)}]
                raise ValueError(f"{name} belongs to {' and '.join(owners)}, not to attention kind {self.kind!r}")
        return self

    @model_serializer(mode="wrap")
    def _without_other_kinds(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the fields of other kinds: one that is added changes the key of no clip that is there."""
        return {name: value for name, value in handler(self).items() if name in self._own | _IN_EVERY_KEY}


def attention_params(kinds: Iterable[type[AttentionKind]]) -> type[_Attention]:
    """The model of a row's `attention`: kind, scale, and the fields of these kinds, as their entries declare them.

    Raises:
        TypeError: Two kinds declare a field of one name differently.
    """
    found: dict[str, tuple[Any, Any]] = {}
    for kind in kinds:
        hints = get_type_hints(kind, include_extras=True)
        for field in fields(kind):
            declared = (hints[field.name], field.default)
            if repr(found.setdefault(field.name, declared)) != repr(declared):
                raise TypeError(
                    f"attention kind {kind.name!r} declares its field {field.name!r} as another kind does not"
                )
    return create_model(
        "AttentionParams", __base__=_Attention, __module__=__name__, __doc__=_Attention.__doc__, **found
    )


AttentionParams = attention_params(KINDS.values())
