"""What a clip costs, in figures that what else ran on the machine does not change: processor time, or evaluations."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from vibe_pipeline.diffusion.flow import schedule_steps
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.generation.methods import method_of


@dataclass(frozen=True)
class Cost:
    """What each clip cost.

    Attributes:
        clips: One row a clip: arm, cost.
        title: What is counted.
        note: In one sentence, how.
    """

    clips: pd.DataFrame
    title: str
    note: str

    @property
    def medians(self) -> pd.Series:
        """By arm."""
        return self.clips.groupby("arm")["cost"].median()


def evaluations(arm: ArmParams) -> int:
    """Forwards of the transformer that one clip of an arm takes, at whatever size; 0 where none runs."""
    method = method_of(arm)
    load = method.workload(arm, schedule_steps(arm.steps, method.strength(arm), arm.strength_mode))
    return sum(count for _, count in load.forwards) + sum(count for *_, count in load.earlier)


def cost_of(clips: pd.DataFrame, arms: Mapping[str, ArmParams], on_cpu: bool) -> Cost | None:
    """Processor time, where the clips were made on processors and all say it; else evaluations; None without clips."""
    if clips.empty:
        return None
    if on_cpu and "cpu_seconds" in clips and clips["cpu_seconds"].notna().all():
        return Cost(
            clips[["arm"]].assign(cost=clips["cpu_seconds"]),
            "processor seconds a clip",
            "Processor time of all threads, which other work on the machine does not change.",
        )
    known = clips[clips["arm"].isin(list(arms))]
    counted = {arm: evaluations(arms[arm]) for arm in known["arm"].unique()}
    return Cost(
        known[["arm"]].assign(cost=known["arm"].map(counted)),
        "transformer evaluations a clip",
        "Passes of the transformer, counted; one with few keys costs less than one with all.",
    )
