"""What our measures cost: those of every clip, as measured; those that `evaluation.extra_measures` names, as stated."""

from collections.abc import Collection

from vibe_pipeline.evaluation.metrics.asked import ASKED
from vibe_pipeline.evaluation.metrics.distributions import Distribution
from vibe_pipeline.evaluation.metrics.networks import Network
from vibe_pipeline.evaluation.metrics.resolution import Measure
from vibe_pipeline.experiment.model import ClipSize
from vibe_pipeline.io.metric import Metric

MEASURE_SECONDS = 0.075
"""Processor seconds of our own measures a megapixel of every frame, nearly half of it decoding: benchmarks/measures.py
on noisy lossless clips of 2176x3840, two cores of a shared machine."""
WRITING_SECONDS = 0.05
"""Processor seconds a megapixel of every frame: a lossless clip (0.034) and its preview (0.016), a noisy 1408x2560."""
READING_SECONDS = 0.034
"""Likewise, to decode a lossless clip."""
VBENCH_DECODINGS = 2  # its two readers, each once for all dimensions
VBENCH_SECONDS = 7.0
"""VBench's networks on a clip of 121 frames, on a GPU. Assumed: 6,220 clips take half a day on one H100."""
MEASURE_CORES = 2  # a decoder beside the measures
MEASURE_FRAMES = 4
"""Pictures in 32-bit floats that measuring holds beside the interpreter, however long the clip: 2.1 to 2.5 as measured,
and a true render."""


def measuring_seconds(size: ClipSize, cores: int, extra: Collection[str] = (), workers: int = 1) -> float:
    """All measures of a clip, `extra` among them, on so many processors, where so many clips are measured at once."""
    megapixels = size.height * size.width * size.frames / 1e6
    return (MEASURE_SECONDS * megapixels + extra_seconds(size, extra)) / min(cores, MEASURE_CORES * workers)


def writing_seconds(size: ClipSize) -> float:
    """One clip and its preview, on one processor."""
    return WRITING_SECONDS * size.height * size.width * size.frames / 1e6


def vbench_seconds(size: ClipSize, cores: int, workers: int = 1) -> float:
    """VBench on one clip, where the networks of all workers share a GPU; each one's decoder uses two cores at most."""
    reading = READING_SECONDS * size.height * size.width * size.frames / 1e6 / min(cores, MEASURE_CORES * workers)
    return VBENCH_DECODINGS * reading + VBENCH_SECONDS * size.frames / 121


def measuring_memory(size: ClipSize, extra: Collection[str] = ()) -> float:
    """Bytes of main memory that measuring takes, with the measures of `extra`."""
    return MEASURE_FRAMES * 12.0 * size.height * size.width + extra_memory(size, extra)


def _chosen(names: Collection[str]) -> list[Metric]:
    return [metric for metric in ASKED if metric.name in names]


def _megapixels(size: ClipSize, metric: Metric) -> float:
    """Of the frames that it looks at, as large as it sees them."""
    if not isinstance(metric, Network):
        return size.height * size.width * size.frames / 1e6
    pixels = size.height * size.width if metric.side is None else metric.side**2
    return pixels * len(metric.wanted(size.frames)) / 1e6


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
