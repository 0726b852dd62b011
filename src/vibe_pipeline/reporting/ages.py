"""How old each part of a page is: a run that finds its rows unchanged, or runs one pipeline, shows earlier work."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.io.keys import set_key
from vibe_pipeline.io.manifests import AdapterManifest
from vibe_pipeline.reporting.tables import arm_label, arm_order


@dataclass(frozen=True)
class Age:
    """One part of a page.

    Attributes:
        part: Its name.
        kind: `adapter`, `clips` or `scores`.
        seconds: When it was made, since 1970.
        now: Whether by the run that wrote the page; None: not known.
        stale: Scores of other clips than the page shows.
    """

    part: str
    kind: str
    seconds: float
    now: bool | None
    stale: bool = False

    @property
    def made(self) -> str:
        """The time, to the minute, in UTC."""
        return f"{datetime.fromtimestamp(self.seconds, UTC):%Y-%m-%d %H:%M} UTC"

    @property
    def when(self) -> str:
        """Which run made it."""
        return {True: "this run", False: "an earlier run", None: "not recorded"}[self.now]


def ages(
    clips: pd.DataFrame,
    arms: Mapping[str, ArmParams],
    adapters: Iterable[AdapterManifest],
    scoring: Mapping[str, Any],
    begun: float | None,
) -> list[Age]:
    """When the parts of a page were made.

    Args:
        clips: arm, path and key of every clip.
        arms: For labels and order.
        adapters: Those that stand behind the arms.
        scoring: `scored`, when the scores were made, seconds since 1970, and `scored_clips`, the hash of what was
            scored (`io.keys.set_key`); without it, scores are stale that are older than a clip.
        begun: When the run that writes the page began; None: no run is known, so nothing is called earlier.

    Returns:
        Adapters, the clips of each arm by its newest, scores; what is gone from the disk is left out.
    """
    found = [(f"Adapter {m.name}", "adapter", _newest([m.path])) for m in adapters]
    order = arm_order(clips["arm"].unique().tolist(), arms) if len(clips) else []
    for arm in order:
        made = _newest(Path(str(path)) for path in clips.loc[clips["arm"] == arm, "path"])
        found.append((f"Clips of {arm_label(arm, arms)}", "clips", made))
    parts = [Age(part, kind, at, _within(at, begun)) for part, kind, at in found if at is not None]
    if (at := scoring.get("scored")) is None:
        return parts
    newest = max((part.seconds for part in parts if part.kind == "clips"), default=at)
    of = scoring.get("scored_clips")
    stale = newest > at if of is None else of != set_key(clips["key"])
    return [*parts, Age("Scores", "scores", at, _within(at, begun), stale)]


def _within(at: float, begun: float | None) -> bool | None:
    return None if begun is None else at >= begun


def _newest(paths: Iterable[Path]) -> float | None:
    return max((path.stat().st_mtime for path in paths if path.is_file()), default=None)


def older_parts(parts: Sequence[Age]) -> str:
    """Which parts an earlier run made, in one sentence; '' where none did or no run is known.

    Scores of other clips than the page shows are said first.
    """
    earlier = [part for part in parts if part.now is False]
    said = []
    if any(part.stale for part in parts):
        said.append("The scores are older than the clips: run `kedro run` to score what is shown.")
    if earlier:
        counts, totals = (Counter(part.kind for part in found) for found in (earlier, parts))
        listed = [_counted(kind, counts[kind], totals[kind]) for kind in counts]
        dates = sorted(part.seconds for part in earlier)
        first, last = (f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}" for at in (dates[0], dates[-1]))
        said.append(f"From earlier runs ({first} to {last} UTC): {', '.join(listed)}.")
    return " ".join(said)


def _counted(kind: str, count: int, total: int) -> str:
    if kind == "scores":
        return "the scores"
    words = {"adapter": "adapters", "clips": "arms' clips"}[kind]
    return f"all {total} {words}" if count == total else f"{count} of {total} {words}"
