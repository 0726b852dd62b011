"""`evaluation`: what is scored, and how figures are summarised."""

from pathlib import Path
from typing import Annotated

from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    field_validator,
)

from vibe_pipeline.experiment.groups import Name, Params


class EvaluationParams(Params):
    """What is scored, and how the figures are summarised."""

    renamed = {  # noqa: RUF012
        "vbench_cache": "folders.vbench_weights in globals.yml",
        "vbench_env": "folders.vbench_env in globals.yml",
    }

    vbench_dimensions: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        description="of VBench's 16; one that cannot be scored is reported with its reason"
    )
    overall_dimensions: Annotated[tuple[str, ...], Field(min_length=2)] = Field(
        (
            "subject_consistency",
            "background_consistency",
            "motion_smoothness",
            "aesthetic_quality",
            "imaging_quality",
            "overall_consistency",
        ),
        description="VBench dimensions whose plain mean is `overall6`; these six fit the paper's “overall” best",
    )
    extra_measures: tuple[str, ...] = Field(
        (), description="measures beside those that are always made, by name (docs/evaluation.md)"
    )
    real_clips: Path | None = Field(
        None, description="folder of real clips that an arm's are compared with (HD-FVD, FVD), or UCF-101 as unpacked"
    )
    flow_side: PositiveInt | None = Field(
        None, description="longest side in pixels that RAFT and AMT see, in every arm; None: clips as they are"
    )
    workers: PositiveInt = Field(
        1, description="processes that score and measure clips at once, each with its own models"
    )
    prompt_rewriting: str = Field("none", description="what rewrote the prompts before generation; stated with scores")
    fine_band: tuple[PositiveFloat, PositiveFloat] = Field(
        description="cycles per frame height between which detail is measured: above what native clips hold"
    )
    reference_arm: Name = Field(description="the arm differences are taken to")
    bootstrap_samples: PositiveInt = Field(2000, description="resamples of prompts and training seeds, an interval")
    confidence: Annotated[float, Field(gt=0, lt=1)] = Field(0.95, description="share of the intervals, 0.95: 95 %")
    seed: int = Field(0, description="any whole number: of the resamples")

    @field_validator("overall_dimensions")
    @classmethod
    def _dimensions_differ(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if twice := [name for i, name in enumerate(names) if name in names[:i]]:
            raise ValueError(f"{twice[0]} stands twice: it would count double")
        return names

    @field_validator("fine_band")
    @classmethod
    def _band_rises(cls, band: tuple[float, float]) -> tuple[float, float]:
        if band[0] >= band[1]:
            raise ValueError(f"the band must rise from a lower to a higher frequency, got {list(band)}")
        return band
