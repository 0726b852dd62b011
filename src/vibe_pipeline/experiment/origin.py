"""Which row of a sweep a variant comes from."""

from pydantic import (
    Field,
    JsonValue,
)

from vibe_pipeline.experiment.groups import Name, Params


class Replicate(Params):
    """Marks an arm as one training seed of several: variants that differ in nothing but training seeds."""

    of: Name = Field(description="the arm they are pooled into")
    label: str = Field(description="of that arm, without the seed")
    seed: str = Field(description="the training seed, by which replicates of two arms are paired")


class Origin(Params):
    """Which variant of which swept row. Only unfolding sets these; no dump and no content key holds them."""

    family: Name | None = Field(None, exclude=True, description="the name of the row with lists, as written")
    swept: dict[str, JsonValue] = Field(
        default_factory=dict, exclude=True, description="dotted field to value; `adapter.…` is the arm's adapter's"
    )
    replicate: Replicate | None = Field(None, exclude=True, description="of an arm with swept training seeds")

    def stated(self) -> dict[str, JsonValue]:
        """What is set, as plain values: what a dump leaves out."""
        found: dict[str, JsonValue] = {"family": self.family, "swept": self.swept}
        found["replicate"] = self.replicate.model_dump() if self.replicate else None
        return {name: value for name, value in found.items() if value}


class Unfolded(Origin):
    """Where a row came from, if a sweep made it or another row collapsed into it."""

    stands_for: tuple[Origin, ...] = Field((), exclude=True, description="variants of other rows, of the same content")

    def stated(self) -> dict[str, JsonValue]:
        """As of its origin, with the variants that it stands for."""
        others: list[JsonValue] = [origin.stated() for origin in self.stands_for]
        return super().stated() | ({"stands_for": others} if others else {})

    @property
    def origins(self) -> tuple[Origin, ...]:
        """Every variant that this row is."""
        return (*((self,) if self.family else ()), *self.stands_for)
