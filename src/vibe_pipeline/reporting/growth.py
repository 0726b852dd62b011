"""A run that grows look after look: what each look told, kept so that it goes on after a kill, and when it ends."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import pandas as pd

from vibe_pipeline.evaluation.readings import ABSENT, NOT_RUN, OPEN
from vibe_pipeline.evaluation.sequential import Look
from vibe_pipeline.io.files import read_json, write_json
from vibe_pipeline.io.keys import content_key

BESIDE = ("tracking", "run", "folders", "report")
"""Groups that change nothing of what a look tells."""


@dataclass(frozen=True)
class Told:
    """What one look told.

    Attributes:
        number: Of the look, from 1.
        level: At which it tells a claim by itself.
        told: Verdicts of the claims that are told, corrected for all claims and looks, by name.
        still_open: Claims that more prompts may tell.
        never: Claims that no prompt will tell here, and why: an arm or a measure is missing.
        hours: That its run took.
    """

    number: int
    level: float
    told: Mapping[str, str]
    still_open: Sequence[str]
    never: Mapping[str, str]
    hours: float

    @classmethod
    def of(cls, table: pd.DataFrame, look: Look, hours: float) -> Self:
        """Out of the table of verdicts that the look's run wrote.

        Raises:
            ValueError: The table is of another look: no verdicts were written.
        """
        primary = table[table["role"] == "primary"]
        if primary.empty or {*primary["look"]} != {look.number} or {*primary["looks"]} != {look.of}:
            raise ValueError(f"the run of {look.said} left no verdicts of that look")
        said = dict(zip(primary["claim"], primary["corrected"], strict=True))
        return cls(
            number=look.number,
            level=float(primary["level"].iloc[0]),
            told={name: verdict for name, verdict in said.items() if verdict not in (OPEN, ABSENT, NOT_RUN)},
            still_open=[name for name, verdict in said.items() if verdict == OPEN],
            never={name: verdict for name, verdict in said.items() if verdict in (ABSENT, NOT_RUN)},
            hours=hours,
        )

    def line(self, blocks: tuple[int, ...]) -> str:
        """Itself, for people."""
        look = Look(self.number, blocks).said
        told = ", ".join(f"{name} {verdict}" for name, verdict in self.told.items())
        parts = [f"told {len(self.told)}" + (f" ({told})" if told else "")]
        parts += [f"open {len(self.still_open)}" + (f" ({', '.join(self.still_open)})" if self.still_open else "")]
        parts += [f"cannot be told here {len(self.never)} ({', '.join(self.never)})"] if self.never else []
        return f"{look}, level {self.level:.2g}, {self.hours:.2g} h: {'; '.join(parts)}"


@dataclass(frozen=True)
class Growth:
    """The looks that were made of one experiment.

    Attributes:
        experiment: A key of all parameters but the number of prompts, and where and how long it runs.
        blocks: Prompts at each look.
        looks: What they told, the first look first.
        unfinished: Hours of runs that ended before their look did, not yet part of one.
    """

    experiment: str
    blocks: tuple[int, ...]
    looks: tuple[Told, ...] = ()
    unfinished: float = 0.0
    path: Path = field(default=Path("growth.json"), compare=False)

    @classmethod
    def kept(cls, params: Mapping[str, Any], blocks: tuple[int, ...], path: Path) -> Self:
        """What is kept of this experiment; nothing, if what is there is another's."""
        generation = {name: value for name, value in params["generation"].items() if name != "count"}
        others = {k: v for k, v in params.items() if k not in BESIDE and not k.startswith("_")}
        fresh = cls(content_key(others | {"generation": generation}), blocks, path=path)
        there = read_json(path) if path.is_file() else {}
        if there.get("experiment") != fresh.experiment:
            return fresh
        looks = tuple(Told(**look) for look in there["looks"])
        return replace(fresh, looks=looks, unfinished=there["unfinished"])

    @property
    def hours(self) -> float:
        """Of all its runs."""
        return sum(look.hours for look in self.looks) + self.unfinished

    def ending(self, budget_hours: float | None = None, budget_prompts: int | None = None) -> str:
        """Why there is no further look; '' where there is one."""
        if not self.looks:
            if budget_prompts is not None and budget_prompts < self.blocks[0]:
                return f"the first look takes {self.blocks[0]} prompts, more than the budget of {budget_prompts}"
            return self._spent(budget_hours)
        last = self.looks[-1]
        if not last.still_open:
            return f"every claim that can be told is told, at look {last.number} of {len(self.blocks)}"
        if last.number == len(self.blocks):
            return f"that was the last look; from this data cannot be told: {', '.join(last.still_open)}"
        after = self.blocks[last.number]
        if budget_prompts is not None and budget_prompts < after:
            return f"the next look takes {after} prompts, more than the budget of {budget_prompts}"
        return self._spent(budget_hours)

    def _spent(self, budget_hours: float | None) -> str:
        if budget_hours is None or self.hours < budget_hours:
            return ""
        return f"the budget of {budget_hours:g} h is spent; verdicts stand at {self._stands()}"

    def _stands(self) -> str:
        return f"look {self.looks[-1].number} of {len(self.blocks)}" if self.looks else "none, as no look was finished"

    def ran(self, hours: float) -> "Growth":
        """With what an unfinished look has taken so far, kept."""
        return replace(self, unfinished=hours)._written()

    def looked(self, told: Told) -> "Growth":
        """With one look more, kept."""
        return replace(self, looks=(*self.looks, told), unfinished=0.0)._written()

    def _written(self) -> "Growth":
        looks = [asdict(look) for look in self.looks]
        content = {"experiment": self.experiment, "blocks": list(self.blocks), "looks": looks}
        write_json(self.path, content | {"unfinished": self.unfinished})
        return self
