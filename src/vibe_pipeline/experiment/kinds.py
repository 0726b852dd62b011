"""Groups whose `kind` names an entry of a registry: they have the fields of all entries, and a row sets its own."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, ClassVar, Self, TypeVar, get_type_hints

from pydantic import SerializerFunctionWrapHandler, create_model, model_serializer, model_validator

from vibe_pipeline.experiment.groups import Params

Group = TypeVar("Group", bound="KindParams")


class KindParams(Params):
    """Base of such a group; subclasses declare `kind`, what else every kind has, and `entries`.

    Attributes:
        called: What messages call a kind.
        in_every_key: Fields that are written whatever the kind.
        later: Fields that came when there were keys: at their defaults they are in none.
    """

    called: ClassVar[str] = "kind"
    later: ClassVar[frozenset[str]] = frozenset()
    in_every_key: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def entries(cls) -> Mapping[str, type]:
        """The registry."""
        raise NotImplementedError

    @classmethod
    def _shared(cls) -> set[str]:
        """Fields that every kind has: those that no entry declares."""
        declared = {field.name for kind in cls.entries().values() for field in fields(kind)}
        return set(cls.model_fields) - declared

    @property
    def _own(self) -> set[str]:
        kind = self.entries()[getattr(self, "kind")]  # noqa: B009  declared by subclasses
        return self._shared() | {field.name for field in fields(kind)}

    def counting(self) -> dict[str, Any]:
        """The fields of its kind that are set, as plain values."""
        return self.model_dump(mode="json", include=self._own, exclude_none=True)

    @model_validator(mode="after")
    def _fields_are_the_kinds_own(self) -> Self:
        for name, info in type(self).model_fields.items():
            if name not in self._own and getattr(self, name) != info.default:
                owners = [n for n, kind in self.entries().items() if name in {field.name for field in fields(kind)}]
                kind = getattr(self, "kind")  # noqa: B009
                raise ValueError(f"{name} belongs to {' and '.join(owners)}, not to {self.called} {kind!r}")
        return self

    @model_serializer(mode="wrap")
    def _without_other_kinds(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the fields of other kinds: one that is added changes the key of nothing that is there."""
        unset = {name for name in self.later if getattr(self, name) == type(self).model_fields[name].default}
        written = (self._own | self.in_every_key) - unset
        return {name: value for name, value in handler(self).items() if name in written}


def kind_params(name: str, base: type[Group], called: str, kinds: Iterable[Any]) -> type[Group]:
    """The model of a group: `base`, with the fields of these kinds as their entries declare them.

    Raises:
        TypeError: Two kinds declare a field of one name differently.
    """
    found: dict[str, Any] = {}
    for kind in kinds:
        hints = get_type_hints(kind, include_extras=True)
        for field in fields(kind):
            declared = (hints[field.name], field.default)
            if repr(found.setdefault(field.name, declared)) != repr(declared):
                raise TypeError(f"{called} {kind.name!r} declares its field {field.name!r} as another kind does not")
    made = create_model(name, __base__=base, __module__=base.__module__, __doc__=base.__doc__, **found)
    made.called = called
    return made
