"""Views of MLflow's page of charts, kept as its own *Share* button keeps them: a tag of the experiment, by a key."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from vibe_pipeline.tracking.runs import WORKFLOW, Tracked

KEPT_AS = "mlflow.sharedViewState."
LONGEST = 5000
"""Characters that MLflow keeps in a tag of an experiment."""

SECTION = "pictures"


@dataclass(frozen=True)
class View:
    """Which runs the page shows, and how.

    Attributes:
        query: Which runs, in MLflow's language.
        order: By which column, such as "tags.`place`".
        falls: The largest comes first.
        pictures: Keys of a grid of pictures, a row each and a column a run; none: the page has charts alone.
        hidden: Keys of pictures that stand in no chart.
        step: The grid's first step.
    """

    query: str
    order: str
    falls: bool = False
    pictures: Sequence[str] = ()
    hidden: Sequence[str] = ()
    step: int = 0

    def state(self) -> dict[str, Any]:
        """What MLflow's page keeps of itself: every run is shown, and pictures without their runs' parameters.

        MLflow adds a chart for every metric, and one for every picture that has no card of its own: so each has one,
        which is taken away, unless the grid is of that picture alone.
        """
        alone = [key for key in (*self.pictures, *self.hidden) if [key] != list(self.pictures)]
        cards = [_card("grid", self.pictures, self.step)] if self.pictures else []
        cards += [_card(f"taken away {i}", [key], self.step, deleted=True) for i, key in enumerate(alone)]
        section = {"uuid": SECTION, "name": SECTION, "display": True, "isReordered": False}
        return {
            "searchFilter": self.query,
            "orderByKey": self.order,
            "orderByAsc": not self.falls,
            "runsHiddenMode": "SHOW_ALL",
            "runListHidden": bool(self.pictures),
            "compareRunCharts": cards,
            "isAccordionReordered": bool(
                self.pictures
            ),  # else sections are sorted by name, and the grid is not the first
            "compareRunSections": [section | {"columns": 1, "cardHeight": 600}] if self.pictures else [],
        }

    def address(self, experiment: str, key: str = "") -> str:
        """The page, relative to its server: as it is kept under a key, or the runs alone, in MLflow's own charts."""
        asked = {"viewStateShareKey": key} if key else {"searchFilter": self.query, "orderByKey": self.order}
        chosen = urlencode({"compareRunsMode": "CHART"} | asked, quote_via=quote)
        return f"#/experiments/{experiment}/runs?{WORKFLOW}&{chosen}"


def kept_view(run: Tracked, experiment: str, key: str, view: View) -> str:
    """Keep a view; its address. One that is too long for MLflow, or that a server does not take, loses its looks."""
    said = json.dumps(view.state(), ensure_ascii=False, separators=(",", ":"))
    kept = len(said) <= LONGEST and run.share(experiment, {KEPT_AS + key: said})
    return view.address(experiment, key if kept else "")


def _card(name: str, keys: Sequence[str], step: int, deleted: bool = False) -> Mapping[str, Any]:
    return {
        "uuid": name,
        "type": "IMAGE",
        "metricSectionId": SECTION,
        "imageKeys": list(keys),
        "step": step,
        "showRunParams": False,
        "deleted": deleted,
        "isGenerated": deleted,
    }
