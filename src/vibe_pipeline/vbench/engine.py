"""VBench's own functions, clip by clip: its code builds each model once, and its code scores each clip.

A dimension's module has `compute_<dimension>`, which builds the models, and a function that takes them and a list
of clips. The first is called with an empty list and the second caught with its arguments; then the second is called
with one clip at a time. So every clip is scored by stock code, clips are decoded once for all dimensions, and a
score can be kept as soon as it is there. Runs in both environments: it needs only VBench's packages.
"""

import contextlib
import functools
import importlib
import inspect
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from vibe_pipeline.vbench.compat import compatible
from vibe_pipeline.vbench.dimensions import FLOW_DIMENSIONS, dimension_of
from vibe_pipeline.vbench.jobs import Result, ScoringJob, Settings, not_started
from vibe_pipeline.vbench.shared_decode import Ahead, Decoder, frames_on_demand, in_batches, shared_readers
from vibe_pipeline.vbench.surroundings import offline, point_to_cache, quiet

# The function of each module that takes models and clips; elsewhere it is called as the dimension.
_SCORING = {"aesthetic_quality": "laion_aesthetic", "imaging_quality": "technical_quality"}
_LONGEST_NAME = 120


@dataclass(frozen=True)
class _Scorer:
    function: Callable[..., tuple[Any, list[dict[str, Any]]]]
    arguments: Mapping[str, Any]


class Engine:
    """VBench with its models at hand. Use :func:`open_engine`."""

    def __init__(self, settings: Settings, scratch: Path, stack: contextlib.ExitStack):
        self.decoder = Decoder()
        self._settings, self._scratch, self._stack = settings, scratch, stack
        self._scorers: dict[str, _Scorer | str] = {}
        self._load_once = functools.cache(torch.load)

    def broken(self, job: ScoringJob) -> str:
        """Why the file cannot be the clip of its row, or an empty string."""
        self.decoder.side = None
        try:
            frames, _ = self.decoder.opencv_frames(job.path)
        except Exception as raised:  # whatever OpenCV makes of a damaged file; the other clips go on
            return f"{job.path} cannot be read as a video: {_said(raised)}"
        if not frames:
            return f"{job.path} cannot be read as a video"
        found, stated = (len(frames), *frames[0].shape[:2]), (job.frames, job.height, job.width)
        if found == stated:
            return ""
        said = ["{} frames of {}x{}".format(*size) for size in (found, stated)]
        return f"{job.path} holds {said[0]}, and its row says {said[1]}"

    def score(self, job: ScoringJob, dimension: str) -> Result:
        """One clip on one dimension; whatever VBench raises becomes the result's `error`."""
        start = time.perf_counter()
        scorer = self._scorer(dimension)
        if isinstance(scorer, str):
            return Result(job.clip, dimension, None, f"failed, because VBench raised {scorer}", whole=True)
        try:
            value, error = self._value(scorer, job, dimension), ""
        except Exception as raised:  # the other clips and dimensions go on
            value, error = None, f"VBench raised {_said(raised)} for {job.path}"
        return Result(job.clip, dimension, value, error, seconds=time.perf_counter() - start)

    def _scorer(self, dimension: str) -> _Scorer | str:
        """VBench's function with its models, built at the first clip; or why that failed."""
        if dimension not in self._scorers:
            try:
                with quiet():
                    self._scorers[dimension] = self._build(dimension)
            except Exception as raised:  # whatever a package or a damaged file raises
                self._scorers[dimension] = _said(raised)
        return self._scorers[dimension]

    def _build(self, dimension: str) -> _Scorer:
        self._stack.enter_context(compatible(dimension))
        module = importlib.import_module(f"vbench.{dimension}")
        point_to_cache(Path(self._settings.cache_dir))
        from vbench import utils

        name = _SCORING.get(dimension, dimension)
        stock, caught = getattr(module, name), {}

        def catch(*args: Any, **options: Any) -> tuple[float, list]:
            caught.update(inspect.signature(stock).bind(*args, **options).arguments)
            return 0.0, []

        nothing = self._scratch / "no_clips.json"
        nothing.write_text("[]")
        # local: the CLIP and DINO weights are then taken from the cache folder, and not from the home folder.
        files = utils.init_submodules([dimension], local=True)[dimension]
        with mock.patch.object(module, name, catch):
            getattr(module, f"compute_{dimension}")(str(nothing), torch.device(self._settings.device), files)
        self._put_ahead(dimension, module, caught)
        return _Scorer(stock, caught)

    def _put_ahead(self, dimension: str, module: Any, caught: dict[str, Any]) -> None:
        """Run frame-wise transforms and models on several frames at once; keep what is built again for each clip."""
        put = self._stack.enter_context
        if dimension in ("subject_consistency", "imaging_quality"):
            caught["model"] = ahead = Ahead(caught["model"])
            then = ahead.prepare
        else:
            then = _same
        if dimension == "imaging_quality":
            put(mock.patch.object(module, "transform", in_batches(module.transform, then)))
        elif dimension in ("subject_consistency", "background_consistency"):
            name = "dino_transform" if dimension == "subject_consistency" else "clip_transform"
            make = getattr(module, name)
            put(mock.patch.object(module, name, lambda size: in_batches(make(size), then)))
        elif dimension == "human_action":  # its scoring function builds the model itself
            put(mock.patch.object(module, "create_model", functools.cache(module.create_model)))
        if dimension in ("subject_consistency", "background_consistency", "aesthetic_quality", "imaging_quality"):
            put(frames_on_demand(self.decoder, module))

    def _value(self, scorer: _Scorer, job: ScoringJob, dimension: str) -> float | None:
        path = self._named_by_prompt(job) if dimension == "human_action" else job.path
        arguments = dict(scorer.arguments)
        if "video_list" in arguments:
            arguments["video_list"] = [path]
        else:
            labelled = {"auxiliary_info": job.labels[dimension]} if dimension in job.labels else {}
            arguments["video_dict"] = [{"prompt": job.prompt, "video_list": [path]} | labelled]
        self.decoder.side = self._settings.flow_side if dimension in FLOW_DIMENSIONS else None
        # human_action reads its weights again in every call.
        load = self._load_once if dimension == "human_action" else torch.load
        with mock.patch.object(torch, "load", load), torch.no_grad(), quiet():
            _, results = scorer.function(**arguments)
        return float(results[0]["video_results"]) * dimension_of(dimension).clip_scale if results else None

    def _named_by_prompt(self, job: ScoringJob) -> str:
        """A link named as the standard protocol names clips: human_action reads the action from the file's name."""
        link = self._scratch / f"{job.prompt.replace('/', '_')[:_LONGEST_NAME]}-0.mp4"
        link.unlink(missing_ok=True)
        link.symlink_to(Path(job.path).resolve())
        return str(link)


@contextlib.contextmanager
def open_engine(settings: Settings) -> Iterator[Engine]:
    """An engine, and VBench's surroundings put back afterwards."""
    cache_dir, work_dir = Path(settings.cache_dir), Path(settings.work_dir)
    work_dir.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="staged_", dir=work_dir)))
        stack.enter_context(offline(cache_dir, work_dir))
        with quiet():
            import vbench.utils  # noqa: F401

            point_to_cache(cache_dir)
        engine = Engine(settings, scratch, stack)
        stack.enter_context(shared_readers(engine.decoder))
        yield engine


def score_jobs(settings: Settings, jobs: Sequence[ScoringJob]) -> Iterator[Result]:
    """Every job's scores, clip by clip, each as soon as it is there."""
    with contextlib.ExitStack() as stack:
        try:
            engine = stack.enter_context(open_engine(settings))
        except Exception as raised:  # a package that cannot be imported, a folder that cannot be written
            yield from not_started(jobs, raised)
            return
        for job in jobs:
            broken = engine.broken(job)
            for dimension in job.dimensions:
                yield Result(job.clip, dimension, None, broken) if broken else engine.score(job, dimension)


def _same(frames: torch.Tensor) -> torch.Tensor:
    return frames


def _said(raised: Exception) -> str:
    return ": ".join([type(raised).__name__, *filter(None, str(raised).split("\n")[:1])])
