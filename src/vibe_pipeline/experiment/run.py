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

    hours: PositiveFloat | None = Field(
        None, description="hours after which it stops cleanly, everything resumable; None: no limit"
    )
    rehearse: bool = Field(False, description="first try every row in small, and start nothing if one fails")
    wait: bool = Field(False, description="queue behind another run in this project instead of refusing")


class TrackingParams(Params):
    """MLflow: where runs are kept. A remote server is one line: its address as `uri`."""

    uri: str = Field("sqlite:///mlflow.db", description="of the store: a file in the project, or a server's address")
    experiment: str = Field("vibe_pipeline", description="the experiment's name in MLflow")
    clips_per_arm: Annotated[int, Field(ge=0)] = Field(2, description="clips that are attached to every arm's run")
    system_metrics: bool = Field(True, description="processor, memory, disk, network and GPU of the machine, over time")


class ReportParams(Params):
    """The page."""

    title: str = Field("ViBe ablation report", description="of the page")
    clips_shown: PositiveInt = Field(4, description="prompts whose clips the page holds, every arm of each")
