"""The way from a noised small picture to the large one (FlashVideo), in training and at inference."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from vibe_pipeline.experiment.groups import Params

Step = Annotated[int, Field(ge=0, le=999)]
SigmaStart = Annotated[float, Field(gt=0, lt=1)]


class BridgeParams(Params):
    """Where the way starts while it is learned, by the objectives `bridge` and `bridge_literal`.

    What stands at its start is the degraded latent that the row's `degradation` makes, with noise in it.
    """

    degradation: Literal["latent", "pixel", "both"] = Field(
        "both",
        description="what is undone: noise on the clean latent, the row's `degradation` without noise (literal form "
        "alone), or noise on that; FlashVideo compares the three",
    )
    ddpm_steps: tuple[Step, Step] = Field(
        (650, 750), description="k of the noise, drawn evenly an image, the ends included; 600 to 900 early in training"
    )
    sigma_start: SigmaStart | None = Field(
        None, description="the same noise for all, in place of ddpm_steps: 0.785 is k 675; 0.921 is strength 0.7"
    )

    @model_validator(mode="after")
    def _one_source_of_noise(self) -> Self:
        if self.ddpm_steps[0] > self.ddpm_steps[1]:
            raise ValueError(f"ddpm_steps {list(self.ddpm_steps)}: the first lies above the second")
        drawn = self.ddpm_steps != type(self).model_fields["ddpm_steps"].default
        if self.sigma_start is not None and drawn:
            raise ValueError("sigma_start fixes what ddpm_steps draws: give one of the two")
        if self.degradation == "pixel" and (self.sigma_start is not None or drawn):
            raise ValueError("degradation: pixel puts no noise at the start: leave sigma_start and ddpm_steps out")
        return self

    @property
    def sigmas(self) -> tuple[float, float]:
        """Least and largest sigma_start of training."""
        from vibe_pipeline.diffusion.bridge import start_sigmas

        if self.degradation == "pixel":
            return 0.0, 0.0
        if self.sigma_start is not None:
            return self.sigma_start, self.sigma_start
        drawn = start_sigmas(*self.ddpm_steps)
        return drawn[0], drawn[-1]


class BridgeStart(Params):
    """Where a second pass starts that goes the way which an adapter has learned; 4 or 5 steps as published."""

    form: Literal["wan", "literal"] = Field("wan", description="of the adapter's objective: bridge, or bridge_literal")
    noise: bool = Field(True, description="off: the enlarged clip alone, for degradation pixel of the literal form")
    ddpm_step: Step = Field(675, description="k of the noise at the start; 650 to 750 are useful")
    sigma_start: SigmaStart | None = Field(None, description="the noise itself, in place of ddpm_step")

    @model_validator(mode="after")
    def _noise_fits_the_form(self) -> Self:
        if not self.noise and self.form == "wan":
            raise ValueError("noise: false is a start of the literal form alone")
        return self

    @property
    def sigma(self) -> float:
        """sigma_start."""
        from vibe_pipeline.diffusion.bridge import start_sigmas

        if not self.noise:
            return 0.0
        return start_sigmas(self.ddpm_step, self.ddpm_step)[0] if self.sigma_start is None else self.sigma_start
