"""`miniature`: how the procedural world's base is trained."""

from pathlib import Path

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from vibe_pipeline.experiment.groups import Params


class MiniatureParams(Params):
    """The procedural world's stand-in for a video model, and how its base is trained (by hand, once)."""

    size: PositiveInt = Field(48, description="native side, pixels")
    frames: PositiveInt = Field(9, description="of a native clip, 4k + 1")
    start: Path | None = Field(
        None, description="a trained base, diffusers layout, whose weights are gone on from; null: from nothing"
    )
    vae_steps: PositiveInt = Field(4500, description="optimiser steps of the whole VAE")
    decoder_steps: PositiveInt = Field(1500, description="optimiser steps of its decoder alone, afterwards")
    vae_equivariance: NonNegativeFloat = Field(
        0.0, description="weight of the VAE's equivariance term; 0: trained plainly"
    )
    vae_batch: PositiveInt = Field(
        2, description="clips of a step and process of the VAE; short ones are twice, stills four times as many"
    )
    clips: PositiveInt = Field(8000, description="captioned native clips the transformer is trained on")
    base_steps: PositiveInt = Field(14_000, description="optimiser steps of the transformer")
    base_batch: PositiveInt = Field(12, description="clips of a step and process of the transformer")
    pixel_scenes: PositiveInt = Field(600, description="scenes the pixel network is trained on, a pair of frames each")
    pixel_steps: PositiveInt = Field(8000, description="optimiser steps of the pixel network")
    processes: PositiveInt = Field(1, description="training processes: of one thread each on a CPU, else one a GPU")
    workers: NonNegativeInt | None = Field(
        None, description="processes that render ahead of each; null: all cores but one beside a GPU, none on a CPU"
    )
    seed: int = Field(0, description="any whole number: of weights, scenes and noise")
