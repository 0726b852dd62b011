"""`folders` of globals.yml: where a run reads and writes."""

import re
from pathlib import Path
from typing import Self

from pydantic import Field

from vibe_pipeline.experiment.groups import Params
from vibe_pipeline.experiment.loader import env_option


class Folders(Params):
    """Where a run reads and writes, as globals.yml says; relative to the project, or absolute.

    The first of each line is named after Kedro's layer; small files of the catalog lie in it beside the folders below.
    """

    data: Path = Field(description="holds the rest as shipped; the lock of one run at a time, and rehearsals")
    raw: Path = Field(description="training images, where data.path does not point elsewhere")
    datasets: Path = Field(description="data sets of the Hugging Face hub, written out as folders of images")
    intermediate: Path = Field(description="lists of what was found")
    planning: Path = Field(description="figures of plan and doctor that only the real modules can give; small")
    primary: Path = Field(description="the table of usable images")
    model_input: Path = Field(description="prompts, and the list of cached latents")
    latents: Path = Field(description="shards of latents and of text embeddings; large")
    models: Path = Field(description="the miniature's base")
    adapters: Path = Field(description="trained adapters, their checkpoints and manifests")
    base_training: Path = Field(description="checkpoints while the miniature's base is trained")
    peers: Path = Field(description="weights of other people's methods; `kedro vibe fetch-weights --arms` fills it")
    vbench_weights: Path = Field(description="weights of VBench's networks; `kedro vibe fetch-weights` fills it")
    measure_weights: Path = Field(description="weights of our measures' networks; the same command fills it")
    vbench_env: Path = Field(description="second environment, with VBench's own pins; `kedro vibe vbench-env` makes it")
    model_output: Path = Field(description="tables of clips and of scores")
    clips: Path = Field(description="every clip, lossless; by far the largest")
    vbench: Path = Field(description="VBench's scores by clip, and what it works on")
    measured: Path = Field(description="our measures by clip")
    reporting: Path = Field(description="tables for people")
    report: Path = Field(description="the newest page, its clips, and scores.parquet")
    reports: Path = Field(description="page and scores of every run, and a page that lists them")
    env: str = Field("", description="the environment whose folders these are; --env sets it, no file does")

    @property
    def rehearsal(self) -> Path:
        """What a rehearsal makes; deleted before and after it, so no folder that could be set to a full one."""
        return self.data / ".rehearsal"

    @property
    def env_option(self) -> str:
        """What is put behind a command that fills one of these folders: without it, another's would be filled."""
        return env_option(self.env)

    def below(self, folder: Path) -> Self:
        """The same folders, each inside `folder`."""
        return self.model_copy(update={name: inside(folder, path) for name, path in self if isinstance(path, Path)})


def inside(folder: Path, path: str | Path) -> Path:
    """A path that was relative or absolute (or a drive's, or a store's address), below `folder`; absolute."""
    return folder.absolute() / re.sub(r"^\w+:/*|^/+", "", str(path))
