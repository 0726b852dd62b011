"""Every measure that is made only where `evaluation.extra_measures` names it; light, as planning reads it too."""

from collections.abc import Collection

from vibe_pipeline.evaluation.metrics.distributions import DISTRIBUTIONS, Distribution
from vibe_pipeline.evaluation.metrics.high_resolution import HIGH_RESOLUTION
from vibe_pipeline.evaluation.metrics.lpips import HD_LPIPS
from vibe_pipeline.evaluation.metrics.networks import Lack, Network
from vibe_pipeline.evaluation.metrics.patches import PATCH_NETWORKS
from vibe_pipeline.evaluation.metrics.whole_clips import WHOLE_CLIPS
from vibe_pipeline.experiment.evaluation import EvaluationParams
from vibe_pipeline.experiment.folders import Folders
from vibe_pipeline.io.clip_files import SUFFIXES, real_clip_files
from vibe_pipeline.io.metric import Metric

ASKED: tuple[Metric, ...] = (*HIGH_RESOLUTION, HD_LPIPS, *PATCH_NETWORKS, *DISTRIBUTIONS, *WHOLE_CLIPS)


def asked_for(names: Collection[str]) -> list[Metric]:
    """The entries of these names, in their own order.

    Raises:
        ValueError: A name is not among them.
    """
    known = [metric.name for metric in ASKED]
    if wrong := [name for name in names if name not in known]:
        raise ValueError(f"evaluation.extra_measures: {wrong[0]!r} is not one of {', '.join(known)}")
    return [metric for metric in ASKED if metric.name in names]


def lack_of(entry: Metric, evaluation: EvaluationParams, folders: Folders) -> Lack | None:
    """Why an entry cannot be measured, from what is on disk; None if it can."""
    if not isinstance(entry, Network):
        return None
    lack = entry.lack(getattr(folders, entry.folder), folders.env_option)
    if lack or not (isinstance(entry, Distribution) and entry.real):
        return lack
    folder = evaluation.real_clips
    if folder is None:
        fix = "set evaluation.real_clips to a folder of them"
        return Lack(f"skipped, because it needs real clips to compare with: {fix}", fix)
    try:
        if real_clip_files(folder):
            return None
    except ValueError as error:
        return Lack(f"skipped, because of evaluation.real_clips: {error}", f"see {folder}")
    said = f"skipped, because evaluation.real_clips, {folder}, holds no clips"
    return Lack(said, f"put clips ({', '.join(SUFFIXES)}) into {folder}")
