"""The family of detail and noise: what the extra pixels hold. One entry a metric of a clip's pixels."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vibe_pipeline.evaluation.metrics.gathering import (
    BandMatch,
    BandShare,
    NativeError,
    Part,
    RadialSpectrum,
    SquaredError,
)
from vibe_pipeline.evaluation.metrics.temporal import Changes, StaticShare, TemporalNoise
from vibe_pipeline.io.metric import Metric


@dataclass(frozen=True, kw_only=True)
class Measure(Metric):
    """A metric of the frames, measured in one pass with all others (`measures`).

    Attributes:
        part: What is kept while frames go by; measures that name the same one share it.
        value: From that to the score.
        needs: What stands beside the clip: `truth`, `native` (frame by frame, of the same length) or `static`.
        same_scene: The truth has to show the very scene of the clip, and not only one like it.
        frames: Fewest that it needs.
    """

    family: str = "detail"
    part: type[Part]
    value: Callable[[Any], float]
    needs: str = ""
    same_scene: bool = False
    frames: int = 1


MEASURES: tuple[Measure, ...] = (
    Measure(
        name="high_frequency_share",
        label="High-frequency share",
        explanation="Share of the picture's power in the fine band. Noise raises it too: read it beside band "
        "correlation.",
        direction="none",
        part=BandShare,
        value=BandShare.mean,
    ),
    Measure(
        name="flicker",
        label="Flicker",
        explanation="Mean change of a pixel from frame to frame, where nothing moves.",
        direction="lower",
        part=Changes,
        value=Changes.flicker,
        needs="static",
        frames=2,
    ),
    Measure(
        name="residual_noise",
        label="Residual noise",
        explanation="Noise in brightness that changes from frame to frame, where nothing moves.",
        direction="lower",
        part=TemporalNoise,
        value=TemporalNoise.sigma,
        needs="static",
        frames=2,
    ),
    Measure(
        name="first_frame_jump",
        label="First-frame jump",
        explanation="How much more changes from frame 0 to 1 than from one later frame to the next, where "
        "nothing moves.",
        direction="lower",
        part=Changes,
        value=Changes.first_jump,
        needs="static",
        frames=3,
    ),
    Measure(
        name="static_share",
        label="Static share",
        explanation="Share of the frame in which nothing moves: where flicker, noise and first-frame jump "
        "are measured.",
        direction="none",
        part=StaticShare,
        value=StaticShare.mean,
    ),
    Measure(
        name="native_psnr",
        label="PSNR to native, dB",
        explanation="How well the native picture was kept: the clip, shrunk, against the native one.",
        direction="higher",
        part=NativeError,
        value=NativeError.psnr,
        needs="native",
    ),
    Measure(
        name="spectrum_distance",
        label="Spectrum distance",
        explanation="Distance of the log10 spectrum to that of the true render; 1 is a factor of ten in power.",
        direction="lower",
        part=RadialSpectrum,
        value=RadialSpectrum.distance,
        needs="truth",
    ),
    Measure(
        name="psnr",
        label="PSNR, dB",
        explanation="Pixel agreement with the true render; it prefers blur to misplaced detail.",
        direction="higher",
        part=SquaredError,
        value=SquaredError.psnr,
        needs="truth",
        same_scene=True,
    ),
    Measure(
        name="band_correlation",
        label="Band correlation",
        explanation="Correlation with the true render in the fine band, which native clips cannot hold: "
        "detail that is right.",
        direction="higher",
        part=BandMatch,
        value=BandMatch.correlation,
        needs="truth",
        same_scene=True,
    ),
    Measure(
        name="band_error",
        label="Band error",
        explanation="What differs from the true render in the fine band, as a share of its power there: 0 "
        "all detail right, "
        "1 none, more if it is wrong.",
        direction="lower",
        part=BandMatch,
        value=BandMatch.error,
        needs="truth",
        same_scene=True,
    ),
    Measure(
        name="band_unmendable",
        label="Band error no gain mends",
        explanation="The part of the band error that is left with the best single gain: what sharpening cannot bring "
        "out, one minus the squared correlation.",
        direction="lower",
        part=BandMatch,
        value=BandMatch.unmendable,
        needs="truth",
        same_scene=True,
    ),
)
