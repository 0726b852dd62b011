"""What the metrics are called, and what each one says, in words for people."""

from dataclasses import dataclass
from types import MappingProxyType

from vibe_pipeline.evaluation.metrics.measures import MEASURES

ARROWS = MappingProxyType({"higher": "↑", "lower": "↓", "none": ""})
DIRECTION_WORDS = MappingProxyType({"higher": "higher is better", "lower": "lower is better", "none": "no better side"})
FAMILIES = MappingProxyType(
    {
        "detail": ("Detail and noise", "Resolution-aware measures: what the extra pixels hold."),
        "miniature": ("Content, read back from the miniature world", "Possible because every true scene is known."),
        "vbench": ("VBench", "It shrinks every clip before scoring, so it hardly sees the extra resolution."),
    }
)


@dataclass(frozen=True)
class MetricWords:
    """A metric's name for people and one line on what it says."""

    label: str
    explanation: str


_WORDS = MappingProxyType(
    {measure.name: (measure.label, measure.explanation) for measure in MEASURES}
    | {
        "background_colour_error": (
            "Background colour error",
            "Distance of the background's colour to the one asked for.",
        ),
        "ssim": ("SSIM", "Structural agreement with the true render."),
        "frechet": ("Fréchet distance", "Distance between simple features of the clips and of true renders."),
        "colour_error": ("Colour error", "Mean distance of the object's and background's colours to the caption's."),
        "colours_right": ("Colours right", "Share of clips whose object and background have the colours asked for."),
        "motion_right": ("Motion right", "Share of clips that move the way asked for, over a sane distance."),
        "shape_right": ("Shape right", "Share of clips whose shape, by template match, is the one asked for."),
        "one_object": ("One object", "Share of clips that show a single object of a sane size."),
        "sharpness": ("Sharpness", "Mean gradient of the picture; noise raises it too."),
        "subject_consistency": ("Subject consistency", "DINO features of the frames stay alike."),
        "background_consistency": ("Background consistency", "CLIP features of the frames stay alike."),
        "temporal_flickering": ("Temporal flickering", "Frames differ little from one to the next."),
        "motion_smoothness": ("Motion smoothness", "An interpolation network can predict the frames in between."),
        "dynamic_degree": ("Dynamic degree", "Share of clips with large motion."),
        "aesthetic_quality": ("Aesthetic quality", "LAION's aesthetic predictor on frames shrunk to 224 pixels."),
        "imaging_quality": ("Imaging quality", "MUSIQ on frames shrunk to 512 pixels."),
        "object_class": ("Object class", "The object asked for is detected."),
        "multiple_objects": ("Multiple objects", "All objects asked for are detected in one frame."),
        "human_action": ("Human action", "The action asked for is recognised."),
        "color": ("Colour", "The object has the colour asked for."),
        "spatial_relationship": ("Spatial relationship", "Objects stand where the prompt puts them."),
        "scene": ("Scene", "A caption of the clip names the scene asked for."),
        "appearance_style": ("Appearance style", "CLIP agreement with the style asked for."),
        "temporal_style": ("Temporal style", "ViCLIP agreement with the camera motion asked for."),
        "overall_consistency": ("Overall consistency", "ViCLIP agreement of clip and prompt."),
        "vbench_quality": ("Quality score", "VBench's weighted mean of its quality dimensions."),
        "vbench_semantic": ("Semantic score", "VBench's mean of its semantic dimensions."),
        "vbench_total": ("Total score", "VBench's (4 × quality + semantic) / 5."),
    }
)


def words(metric: str) -> MetricWords:
    """A metric's label and explanation; an unknown one gets its own name, tidied."""
    if metric in _WORDS:
        return MetricWords(*_WORDS[metric])
    return MetricWords(metric.replace("_", " ").strip().capitalize() or metric, "")


def family_words(family: str) -> tuple[str, str]:
    """A family's title and one line on it; an unknown one gets its own name."""
    return FAMILIES.get(family, (family.replace("_", " ").capitalize(), ""))


def spread(half_width: float, mean: float) -> str:
    """A half-width with as many decimals as its mean is shown with."""
    shown = number(mean)
    return number(half_width) if "e" in shown else f"{half_width:.{len(shown.partition('.')[2])}f}"


def number(value: float) -> str:
    """Three significant digits, a true minus sign, no exponent where it can be helped."""
    if value != value:
        return "–"
    size = abs(value)
    if size >= 1e5 or 0 < size < 1e-4:
        text = f"{value:.1e}"
    elif size >= 100:
        text = f"{value:.0f}"
    elif size >= 10:
        text = f"{value:.1f}"
    elif size >= 1 or size == 0:
        text = f"{value:.2f}"
    else:
        text = f"{value:.3f}" if size >= 0.01 else f"{value:.4f}"
    return text.replace("-", "−")
