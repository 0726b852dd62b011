"""How the page says a metric, a side and a number; what is said of a metric stands in its entry."""

from dataclasses import dataclass
from types import MappingProxyType

from vibe_pipeline.evaluation.metrics.registry import FAMILIES, METRICS

ARROWS = MappingProxyType({"higher": "↑", "lower": "↓", "none": ""})
DIRECTION_WORDS = MappingProxyType({"higher": "higher is better", "lower": "lower is better", "none": "no better side"})


@dataclass(frozen=True)
class MetricWords:
    """A metric's name for people and one line on what it says."""

    label: str
    explanation: str


def words(metric: str) -> MetricWords:
    """A metric's label and explanation; an unknown one gets its own name, tidied."""
    if known := METRICS.get(metric):
        return MetricWords(known.label, known.explanation)
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
