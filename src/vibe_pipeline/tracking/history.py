"""Runs that were: what MLflow keeps of each `kedro run`, a line each."""

from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from mlflow.entities import Run

from vibe_pipeline.experiment.run import TrackingParams
from vibe_pipeline.tracking.store import opened

HEADS = ("run", "begun", "minutes", "ended", "what", "commit")
SHORT = 8


@dataclass(frozen=True)
class PastRun:
    """One `kedro run`.

    Attributes:
        run_id: In MLflow.
        begun: Local time, to the second, ISO 8601.
        minutes: From begin to end; None while it runs.
        status: RUNNING, FINISHED, FAILED or KILLED.
        what: Environment and pipelines.
        commit: Of the code.
    """

    run_id: str
    begun: str
    minutes: float | None
    status: str
    what: str
    commit: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @property
    def cells(self) -> tuple[str, ...]:
        """For people; the start of an id tells it apart, and is what commands take."""
        minutes = "" if self.minutes is None else f"{self.minutes:.1f}"
        commit, changes = self.commit.partition("+")[::2]
        shown = commit[:SHORT] + ("+changes" if changes else "")
        return self.run_id[:SHORT], self.begun.replace("T", " "), minutes, self.status.lower(), self.what, shown


def past_runs(tracking: TrackingParams, project: Path, last: int) -> list[PastRun]:
    """The newest runs of the experiment, those of this project's store.

    Raises:
        ConnectionError: The store cannot be used.
    """
    with opened(tracking, project) as (client, _):
        experiment = client.get_experiment_by_name(tracking.experiment)
        if experiment is None:
            return []
        order = ["attributes.start_time DESC"]
        found = client.search_runs([experiment.experiment_id], "tags.kind = 'run'", max_results=last, order_by=order)
        return [_past(run) for run in found]


def _past(run: Run) -> PastRun:
    info, tags = run.info, run.data.tags
    begun = datetime.fromtimestamp(info.start_time / 1000).isoformat(timespec="seconds")
    minutes = (info.end_time - info.start_time) / 60_000 if info.end_time else None
    return PastRun(info.run_id, begun, minutes, info.status, info.run_name or "", tags.get("git_commit", ""))
