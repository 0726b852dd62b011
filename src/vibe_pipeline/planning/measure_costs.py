"""What measures cost that are made only where `evaluation.extra_measures` names them, by what their entries state."""

from collections.abc import Collection

from vibe_pipeline.evaluation.metrics.asked import ASKED
from vibe_pipeline.evaluation.metrics.distributions import Distribution
from vibe_pipeline.evaluation.metrics.networks import Network, spaced
from vibe_pipeline.evaluation.metrics.resolution import Measure
from vibe_pipeline.experiment.model import ClipSize
from vibe_pipeline.io.metric import Metric


def _chosen(names: Collection[str]) -> list[Metric]:
    return [metric for metric in ASKED if metric.name in names]


def _megapixels(size: ClipSize, metric: Metric) -> float:
    """Of the frames that it looks at."""
    frames = len(spaced(size.frames, metric.frames)) if isinstance(metric, Network) else size.frames
    return size.height * size.width * frames / 1e6


def extra_seconds(size: ClipSize, names: Collection[str]) -> float:
    """Processor seconds that they add to a clip; those that share what is gathered cost it once."""
    distinct = {m.part if isinstance(m, Measure) else m.name: m for m in _chosen(names)}
    return sum(metric.seconds * _megapixels(size, metric) for metric in distinct.values())


def extra_memory(size: ClipSize, names: Collection[str]) -> float:
    """Bytes of main memory that they take: an arm's distribution keeps the frames that it looks at until it has all."""
    kept = [metric for metric in _chosen(names) if isinstance(metric, Distribution)]
    return sum(3e6 * _megapixels(size, metric) for metric in kept)


def network_teraflops(size: ClipSize, names: Collection[str]) -> float:
    """Operations of a clip in their networks, 1e12."""
    networks = [metric for metric in _chosen(names) if isinstance(metric, Network)]
    return sum(network.teraflops * _megapixels(size, network) for network in networks)
