"""What all groups of parameters share: unknown fields are errors, values are immutable."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

Fraction = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$", description="lower case, digits and underscores")]


class Params(BaseModel):
    """Base of all parameter groups: unknown fields are errors, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    renamed: ClassVar[Mapping[str, str]] = {}
    """Names that fields had, and what to write instead."""

    @model_validator(mode="before")
    @classmethod
    def _old_names(cls, values: Any) -> Any:
        old = next((name for name in cls.renamed if isinstance(values, Mapping) and name in values), None)
        if old is not None:
            raise ValueError(f"{old} has another name now; write {cls.renamed[old]}")
        return values

    @field_validator("*", mode="before")
    @classmethod
    def _yes_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML reads yes and no as booleans, which pydantic would take for 1 and 0."""
        kinds = set(_types_in(cls.model_fields[info.field_name].annotation)) if info.field_name else {bool}
        if isinstance(value, bool) and bool not in kinds:
            wanted = "a number" if kinds & {int, float} else "text" if str in kinds else "another kind of value"
            raise ValueError(f"expected {wanted}, got the boolean {value} (YAML reads yes/no/on/off as booleans)")
        return value


def _types_in(annotation: Any) -> Iterator[type]:
    """All types in an annotation: `int` lies two deep in `PositiveInt | None`; of a literal, its values' types."""
    if isinstance(annotation, type):
        yield annotation
    for part in get_args(annotation):
        yield from _types_in(part) if get_origin(annotation) is not Literal else (type(part),)


class Grown(Params):
    """A group with fields that came later: at their defaults they are left out of what a key is made of."""

    later: ClassVar[frozenset[str]] = frozenset()
    """Those fields."""

    @model_serializer(mode="wrap")
    def _without_later(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        unset = {name for name in self.later if getattr(self, name) == fields[name].default}
        return {name: value for name, value in handler(self).items() if name not in unset}
