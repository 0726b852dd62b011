"""`miniature`: how the procedural world's base is trained."""

from pydantic import Field, NonNegativeFloat, PositiveInt

from vibe_pipeline.experiment.groups import Params


class MiniatureParams(Params):
    """The procedural world's stand-in for a video model, and how its base is trained (by hand, once)."""

    size: PositiveInt = Field(48, description="native side, pixels")
    frames: PositiveInt = 9
    vae_steps: PositiveInt = 12000
    vae_equivariance: NonNegativeFloat = Field(
        0.0, description="weight of the VAE's equivariance terms; 0: trained plainly"
    )
    clips: PositiveInt = Field(8000, description="captioned native clips the transformer is trained on")
    base_steps: PositiveInt = 2600
    processes: PositiveInt = Field(2, description="single-thread training processes")
    seed: int = 0
