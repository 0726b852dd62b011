"""Scores of an arm's clips: measures that see resolution, and measures against the known truth."""

import logging
import math
import os
import threading
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import get_context, parent_process
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from vibe_pipeline.evaluation.metrics.measures import Beside, Measured, measure_clip, measures_for
from vibe_pipeline.evaluation.metrics.miniature import Attribute, Shown
from vibe_pipeline.evaluation.metrics.registry import METRICS, of_kind
from vibe_pipeline.evaluation.metrics.resolution import Measure
from vibe_pipeline.evaluation.metrics.static import StaticMask, find_static
from vibe_pipeline.evaluation.networks import Looks, Networks
from vibe_pipeline.experiment.evaluation import EvaluationParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.generation.methods import METHODS
from vibe_pipeline.io.keys import content_key
from vibe_pipeline.io.score_table import Place, difference_of, score_row, score_table
from vibe_pipeline.io.table_cache import MEASURES_VERSION, remembered
from vibe_pipeline.io.video import read_clip, read_frames
from vibe_pipeline.miniature.readout import object_saliency
from vibe_pipeline.runtime.progress import Progress

log = logging.getLogger(__name__)

Array = NDArray[np.float32]

_APART: dict[str, Any] = {}  # of a process that measures clips for another

NO_TRUTH = (
    "native clips come from the base, so no true render shows the same scene; set generation.native_source: truth"
)


def same_scene() -> list[Measure]:
    """Measures that a true render of another scene says nothing to."""
    return [m for m in of_kind(Measure) if m.same_scene]


def measure_arm(
    arm: str,
    clips: pd.DataFrame,
    native: pd.DataFrame,
    evaluation: EvaluationParams,
    generation: GenerationParams,
    memory: Path | None = None,
    networks: Networks | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Score every clip of an arm.

    Args:
        arm: The arm's name, as it stands in the score table.
        clips: One row a clip: prompt_index, prompt, seed, path, reference_path, method, key.
        native: The native clips: prompt_index, seed, path, key.
        evaluation: The band of detail, and which measures beside those always made.
        generation: Whether true renders are paired with the clips.
        memory: Folder where each clip's scores are kept, by its content, as soon as they are there; with it
            `evaluation.workers` clips are measured at once.
        networks: See the clips in the same walk over their frames.

    Returns:
        The score table (see `io.score_table`), and the radial spectrum (arm, cycles,
        power; geometric mean over clips).
    """
    scene = _Scenes(generation, clips, evaluation)
    beside = native.set_index(["prompt_index", "seed"])
    of_native = dict(zip(beside.index, beside.to_dict("records"), strict=True))
    pairs = [(clip, of_native[clip.prompt_index, clip.seed]) for clip in clips.itertuples(index=False)]

    def compute() -> dict[str, pd.DataFrame]:
        return _measured_arm(arm, pairs, scene, memory, networks)

    if memory is None:
        tables = compute()
    else:
        # In one file beside those of the clips, so that an arm in which nothing changed opens one and not three a clip.
        of_clips = [(clip.prompt_index, clip.seed, _clip_key(clip, own, scene)) for clip, own in pairs]
        key = content_key("arm", arm, sorted((m.name, m.direction, m.family) for m in METRICS.values()), of_clips)
        if not (memory / "arms" / f"{key}.names").exists():
            _measure_side_by_side(arm, pairs, scene, memory, networks)
        elif networks:
            _look_only(arm, clips, networks)
        tables = remembered(memory / "arms", key, compute)
    return tables["scores"], tables["spectrum"]


def _look_only(arm: str, clips: pd.DataFrame, networks: Networks) -> None:
    """What networks have yet to see of clips that are measured."""
    for clip in Progress(list(clips.itertuples(index=False)), total=len(clips), desc=arm, unit="seen clip"):
        looks = networks.looks(clip)
        looks.finish()
        networks.took(clip, looks)


def _measure_side_by_side(
    arm: str, pairs: list[tuple[Any, dict[str, Any]]], scene: "_Scenes", memory: Path, networks: Networks | None
) -> None:
    """Measure clips that no run has measured in `evaluation.workers` processes, each of which keeps its own."""
    missing = [pair for pair in pairs if not (memory / f"{_clip_key(*pair, scene)}.names").exists()]
    workers = min(scene.evaluation.workers, len(missing))
    if workers < 2:
        return
    given = scene, memory, networks.given if networks else None, max(1, (os.cpu_count() or 1) // workers)
    clips, natives = [SimpleNamespace(**clip._asdict()) for clip, _ in missing], [native for _, native in missing]
    # Spawned, not forked: a forked copy of a process with threads may deadlock.
    with ProcessPoolExecutor(workers, get_context("spawn"), _begin_apart, given) as pool:
        try:
            made = pool.map(_measure_apart, clips, natives)
            for _ in Progress(made, total=len(clips), desc=arm, unit="measured clip"):
                pass
        except BrokenProcessPool:
            log.warning(
                "%s: a process that measured clips was ended from outside, as where memory is short; the rest is "
                "measured one by one, as all is with evaluation.workers: 1", arm
            )  # fmt: skip


def _begin_apart(scene: "_Scenes", memory: Path, networks: tuple[Any, ...] | None, threads: int) -> None:
    """What a process of its own measures with."""
    from vibe_pipeline.diffusion.models import limit_threads  # not at the top: torch, which a page's statistics lack

    threading.Thread(target=_end_with_parent, daemon=True).start()
    limit_threads(threads)
    _APART.update(scene=scene, memory=memory, networks=Networks(*networks) if networks else None)


def _end_with_parent() -> None:
    """A pool's processes wait for ever for work from one that was killed, and hold their share of a GPU."""
    if (parent := parent_process()) is not None:
        parent.join()
        os._exit(1)


def _measure_apart(clip: Any, native: dict[str, Any]) -> None:
    """Measure one clip in a process of its own; what networks cannot do is said by the one that asked."""
    networks = _APART["networks"]
    looks = networks.looks(clip) if networks else Looks(Path(clip.path))
    _remembered(clip, native, _APART["scene"], _APART["memory"], looks)
    looks.finish()


def _measured_arm(
    arm: str, pairs: list[tuple[Any, dict[str, Any]]], scene: "_Scenes", memory: Path | None, networks: Networks | None
) -> dict[str, pd.DataFrame]:
    """An arm's scores and spectrum, a clip at a time."""
    rows, spectra = [], []
    for clip, native in Progress(pairs, total=len(pairs), desc=arm, unit="measured clip"):
        looks = networks.looks(clip) if networks else Looks(Path(clip.path))
        tables = _remembered(clip, native, scene, memory, looks)
        looks.finish()
        if networks:
            networks.took(clip, looks)
        place = Place(arm, clip.prompt_index, clip.seed)
        found = tables["scores"].itertuples(index=False)
        rows += [score_row(place, METRICS[r.metric], r.value, r.status, r.reason) for r in found]
        spectra.append(tables["spectrum"])
    if scene.known and not scene.paired:
        rows += [score_row(Place(arm), m, status="skipped", reason=NO_TRUTH) for m in same_scene()]
    return {"scores": score_table(rows), "spectrum": mean_spectrum(arm, spectra)}


@dataclass(frozen=True)
class _Scenes:
    """What is known of the scenes of an arm's clips: miniature prompts say all, others nothing."""

    generation: GenerationParams
    clips: pd.DataFrame
    evaluation: EvaluationParams

    @property
    def known(self) -> bool:
        return self.generation.prompts == "miniature"

    @cached_property
    def paired(self) -> bool:
        """The ceiling arm renders the very scene of the reference, whatever the native clips come from."""
        truth = self.generation.native_source == "truth" or all(
            METHODS[m].bound == "ceiling" for m in self.clips["method"]
        )
        return self.known and truth

    @property
    def asked(self) -> tuple[tuple[float, float], tuple[str, ...]]:
        """The band of detail, and which measures beside those always made."""
        return self.evaluation.fine_band, self.evaluation.extra_measures

    @cached_property
    def measures(self) -> list[str]:
        """Names of what is measured: a new entry is part of every key."""
        return [metric.name for metric in (*measures_for(self.evaluation.extra_measures), *of_kind(Attribute))]

    def key(self, clip: Any) -> tuple[Any, ...]:
        """What else determines a clip's scores."""
        reference = Path(clip.reference_path).name if self.known else ""
        differs = difference_of(clip) if self.known else ""  # what cannot be measured then depends on the target
        return clip.method, self.known and clip.prompt, reference, self.paired, differs, self.evaluation.fine_band


def _remembered(
    clip: Any, native: dict[str, Any], scene: _Scenes, memory: Path | None, looks: Looks
) -> dict[str, pd.DataFrame]:
    """A clip's scores and spectrum: kept from an earlier run, or measured."""

    def compute() -> dict[str, pd.DataFrame]:
        return _tables(_measured(clip, native, scene, memory, looks))

    return compute() if memory is None else remembered(memory, _clip_key(clip, native, scene), compute)


def _clip_key(clip: Any, native: dict[str, Any], scene: _Scenes) -> str:
    """What determines a clip's scores."""
    return content_key("clip", MEASURES_VERSION, scene.measures, clip.key, native["key"], *scene.key(clip))


def _measured(
    clip: Any, native: dict[str, Any], scene: _Scenes, memory: Path | None, looks: Looks
) -> tuple[Measured, dict[str, float]]:
    """A clip's measures, and what it shows against its caption."""
    path, own = Path(clip.path), METHODS[clip.method].from_native  # another system's clips have no native clip of ours
    beside = read_frames(Path(native["path"])) if own else None
    band, extra = scene.asked
    if not scene.known:
        frames = looks.during(read_frames(path))
        return measure_clip(frames, band, Beside(_native_static(native, memory), beside), extra), {}
    pixels = read_clip(path)  # of the miniature, so it is small
    unpaired = () if scene.paired else tuple(m.name for m in same_scene())
    if differs := difference_of(clip):  # at another rate even frames of one number show other moments
        measured = measure_clip(pixels, band, Beside(static_mask(pixels), beside), extra)
        measured.missing |= {m.name: differs for m in of_kind(Measure) if m.needs == "truth" and m.name not in unpaired}
    else:
        truth = read_frames(Path(clip.reference_path))
        measured = measure_clip(pixels, band, Beside(static_mask(pixels), beside, truth, unpaired), extra)
    return measured, attribute_scores(pixels, clip.prompt)


def _native_static(native: dict[str, Any], memory: Path | None) -> StaticMask:
    """The mask of a (prompt, seed), found once for all arms."""
    path = Path(native["path"])
    if memory is None:
        return find_static(read_frames(path))
    kept = memory / "static" / f"{content_key('static', MEASURES_VERSION, native['key'])}.npz"
    if kept.exists():
        try:
            return StaticMask.load(kept)
        except ValueError as error:
            log.warning("%s; it is made again", error)
    found = find_static(read_frames(path))
    log.info(
        "%s: nothing moves in %.1f %% of the frame%s", path.name, 100 * found.share, found.problem and " (too little)"
    )
    found.save(kept)
    return found


def mean_spectrum(arm: str, spectra: list[pd.DataFrame]) -> pd.DataFrame:
    """Geometric mean over clips: arm, cycles, power; over those of the most frequent size, if sizes differ."""
    sizes = Counter(tuple(table["cycles"]) for table in spectra)
    cycles, count = sizes.most_common(1)[0]
    if count < len(spectra):
        log.warning("%s: the spectrum is of %d of %d clips, as the others have another size", arm, count, len(spectra))
    levels = [table["level"] for table in spectra if tuple(table["cycles"]) == cycles]
    return pd.DataFrame({"arm": arm, "cycles": list(cycles), "power": np.power(10.0, np.mean(levels, 0))})


def static_mask(clip: Array) -> StaticMask:
    """Where nothing moves in any frame of a miniature clip: away from the object's whole path."""
    saliency, _ = object_saliency(clip)
    return StaticMask(~ndimage.binary_dilation((saliency > 0.35).any(0), iterations=max(2, clip.shape[1] // 24)))


def attribute_scores(clip: Array, prompt: str) -> dict[str, float]:
    """What the clip shows against what its caption says: 0 or 1 each, and the colours' distance (RGB, 0 to 1)."""
    shown = Shown(clip, prompt)
    return {attribute.name: attribute.value(shown) for attribute in of_kind(Attribute)}


def _tables(found: tuple[Measured, dict[str, float]]) -> dict[str, pd.DataFrame]:
    """A clip's scores (metric, value, status, reason) and spectrum (cycles, level)."""
    measured, attributes = found
    rows = [(name, value, "scored", "") for name, value in (measured.values | attributes).items()]
    at = len(measured.values)
    rows[at:at] = [(name, math.nan, "skipped", reason) for name, reason in measured.missing.items()]
    scores = pd.DataFrame(rows, columns=["metric", "value", "status", "reason"])
    return {"scores": scores, "spectrum": pd.DataFrame({"cycles": measured.cycles, "level": measured.levels})}
