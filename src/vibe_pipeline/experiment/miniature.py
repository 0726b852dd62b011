"""`miniature`: how the procedural world's base is trained."""

from pydantic import Field, NonNegativeFloat, PositiveInt

from vibe_pipeline.experiment.groups import Params


class MiniatureParams(Params):
    """The procedural world's stand-in for a video model, and how its base is trained (by hand, once)."""

    size: PositiveInt = Field(48, description="native side, pixels")
    frames: PositiveInt = Field(9, description="of a native clip, 4k + 1")
    vae_steps: PositiveInt = Field(4500, description="optimiser steps of the whole VAE")
    decoder_steps: PositiveInt = Field(1500, description="optimiser steps of its decoder alone, afterwards")
    vae_equivariance: NonNegativeFloat = Field(
        0.0, description="weight of the VAE's equivariance terms; 0: trained plainly"
    )
    clips: PositiveInt = Field(8000, description="captioned native clips the transformer is trained on")
    base_steps: PositiveInt = Field(14_000, description="optimiser steps of the transformer, of twelve clips a process")
    pixel_scenes: PositiveInt = Field(600, description="scenes the pixel network is trained on, a pair of frames each")
    pixel_steps: PositiveInt = Field(8000, description="optimiser steps of the pixel network")
    processes: PositiveInt = Field(1, description="single-thread training processes")
    seed: int = Field(0, description="any whole number: of weights, scenes and noise")
