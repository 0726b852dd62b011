"""`run`, `tracking` and `report`: one `kedro run` as a whole."""

from typing import Annotated

from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
)

from vibe_pipeline.experiment.groups import Params


class RunParams(Params):
    """One `kedro run` as a whole."""

    hours: PositiveFloat | None = Field(None, description="stop cleanly after this long, everything resumable")
    rehearse: bool = Field(False, description="first try every row in small, and start nothing if one fails")
    wait: bool = Field(False, description="queue behind another run in this project instead of refusing")


class TrackingParams(Params):
    """MLflow: where runs are kept. A remote server is one line: its address as `uri`."""

    uri: str = "sqlite:///mlflow.db"
    experiment: str = "vibe_pipeline"
    clips_per_arm: Annotated[int, Field(ge=0)] = 2
    system_metrics: bool = Field(True, description="processor, memory, disk, network and GPU of the machine, over time")


class ReportParams(Params):
    """The page."""

    title: str = "ViBe ablation report"
    clips_shown: PositiveInt = 4
