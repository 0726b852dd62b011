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


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def spread(half_width: float, mean: float) -> str:
    """A half-width with as many decimals as its mean is shown with."""
    return together(mean, half_width, digits_of=mean)[1]


def together(*values: float, digits_of: float | None = None) -> list[str]:
    """Figures of one line, such as a difference and its interval, all to the same decimal place.

    Args:
        values: What to show; NaN is a dash.
        digits_of: The figure that gets three significant digits; None: the largest.
    """
    known = [abs(value) for value in values if value == value]
    size = abs(digits_of) if digits_of is not None and digits_of == digits_of else max(known, default=0.0)
    shown = number(size)
    if "×" in shown:
        return [number(value) for value in values]
    decimals = len(shown.partition(".")[2])
    return ["–" if value != value else _signed_zero(f"{value:,.{decimals}f}") for value in values]


def _signed_zero(text: str) -> str:
    """A true minus sign, and none before a zero."""
    return text.replace("-", "−" if text.strip("-0.,") else "")


def number(value: float) -> str:
    """Three significant digits, a true minus sign, no power of ten where it can be helped."""
    if value != value:
        return "–"
    size = abs(value)
    if size >= 1e7 or 0 < size < 1e-4:
        mantissa, _, power = f"{value:.1e}".partition("e")
        text = f"{mantissa} × 10{str(int(power)).translate(_RAISED)}"
    elif size >= 1000:
        text = f"{value:,.0f}"
    elif size >= 100:
        text = f"{value:.0f}"
    elif size >= 10:
        text = f"{value:.1f}"
    elif size >= 1 or size == 0:
        text = f"{value:.2f}"
    else:
        text = f"{value:.3f}" if size >= 0.01 else f"{value:.4f}"
    return text.replace("-", "−")
