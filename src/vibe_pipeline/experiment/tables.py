"""The tables that the graph is built from, checked against each other."""

from typing import Any, Self

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    field_serializer,
    model_validator,
)

from vibe_pipeline.experiment.adapters import AdapterParams
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.groups import Name, Params
from vibe_pipeline.experiment.origin import Unfolded
from vibe_pipeline.experiment.training import Stage1Params


class Experiment(Params):
    """The tables that the graph is built from, checked against each other."""

    stage1: dict[Name, Stage1Params] = Field(description="adapters of the image modality (D1)")
    adapters: dict[Name, AdapterParams] = Field(description="adapters of stage 2 (D2)")
    arms: dict[Name, ArmParams] = Field(description="what is generated and scored")
    reference_arm: Name = Field(description="the arm differences are taken to")
    stop_after_preview: bool = Field(False, description="no arm is made: native clips and their contact sheet")

    @model_validator(mode="after")
    def _rows_exist(self) -> Self:
        if "base" in self.stage1:
            raise ValueError("stage1.base: `base` means the original base in adapters.*.start; choose another name")
        if both := sorted(set(self.stage1) & set(self.adapters)):
            raise ValueError(f"adapters.{both[0]}: stage1 has a row of that name too, and both would be kept under it")
        for name, row in self.adapters.items():
            if row.start != "base" and row.start not in self.stage1:
                known = ", ".join(self.stage1)
                raise ValueError(f"adapters.{name}.start: {row.start!r} is not a row of stage1 ({known})")
        for name, arm in self.arms.items():
            if arm.adapter is not None and arm.adapter not in self.adapters:
                known = ", ".join(self.adapters)
                raise ValueError(f"arms.{name}.adapter: {arm.adapter!r} is not a row of adapters ({known})")
            if arm.keep_stage1 and arm.adapter and self.adapters[arm.adapter].start == "base":
                raise ValueError(f"arms.{name}.keep_stage1: adapter {arm.adapter!r} starts from the base, not stage 1")
            self._require_fitting_bridge(name, arm)
        if self.reference_arm not in self.references:
            known = ", ".join(self.arms)
            raise ValueError(f"evaluation.reference_arm: {self.reference_arm!r} is not a row of arms ({known})")
        return self

    def _require_fitting_bridge(self, name: str, arm: ArmParams) -> None:
        """A pass goes a way that its adapter learned, from noise that its training drew."""
        row = self.adapters.get(arm.adapter or "")
        learned = row.bridges if row else set()
        if arm.bridge is None:
            if row and learned == {"literal"} and set(row.objective) == {"bridge_literal"}:
                raise ValueError(
                    f"arms.{name}: adapter {arm.adapter!r} learned the literal bridge alone; give the arm "
                    "`bridge: {form: literal}`"
                )
            return
        form, sigma = arm.bridge.form, arm.bridge.sigma
        if form == "literal" and form not in learned:
            raise ValueError(f"arms.{name}.bridge: the literal form needs an adapter of the objective bridge_literal")
        if row and row.bridge and form in learned:
            low, high = row.bridge.sigmas
            if not low - 1e-3 <= sigma <= high + 1e-3:
                drawn = f"{low:.3f}" if low == high else f"{low:.3f} to {high:.3f}"
                raise ValueError(
                    f"arms.{name}.bridge starts at sigma {sigma:.3f}, and adapter {arm.adapter!r} was trained from "
                    f"{drawn}: set ddpm_step or sigma_start within"
                )

    def arm_of(self, adapter: str) -> str:
        """The first arm that uses an adapter, without stage 1: how its validation clips are made.

        Raises:
            ValueError: No arm does.
        """
        for name, arm in self.arms.items():
            if arm.adapter == adapter and not arm.keep_stage1:
                return name
        raise ValueError(f"adapters.{adapter}.validation_clips: no arm uses this adapter, so how they are made is open")

    @field_serializer("adapters", "arms", mode="wrap")
    def _with_origins(self, rows: dict[str, Unfolded], dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The tables as a whole say where rows came from; a row of its own does not, as that changes no result."""
        return {name: dumped | rows[name].stated() for name, dumped in dump(rows).items()}

    @property
    def references(self) -> set[str]:
        """What may be named as reference: an arm, the arm that replicates are pooled into, a swept row as written."""
        origins = [origin for arm in self.arms.values() for origin in arm.origins]
        pooled = {origin.replicate.of for origin in origins if origin.replicate}
        return set(self.arms) | pooled | {origin.family for origin in origins if origin.family}
