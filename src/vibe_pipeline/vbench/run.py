"""Running the jobs of a scoring: what is kept is taken, the rest is computed, in one process or several."""

import logging
import math
import queue
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from vibe_pipeline.io.keys import content_key
from vibe_pipeline.runtime.deadline import out_of_time, require_time
from vibe_pipeline.runtime.progress import Progress, live_folder
from vibe_pipeline.vbench.dimensions import FLOW_DIMENSIONS, dimension_of
from vibe_pipeline.vbench.jobs import Result, ScoringJob, Settings, not_started
from vibe_pipeline.vbench.kept_scores import ENGINE_VERSION, ScoreStore, WholeTables, weights_fingerprint
from vibe_pipeline.vbench.manifest import version
from vibe_pipeline.vbench.readiness import Ready
from vibe_pipeline.vbench.worker import WorkerError, score_elsewhere

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scoring:
    """How scoring runs.

    Attributes:
        cache_dir: VBench's folder of weights; only read.
        work_dir: Where scores are kept, made if needed.
        device: What torch calls the device; with several workers on `cuda` they take the GPUs in turn.
        flow_side: Longest side in pixels that RAFT and AMT see, the same for every clip; None: frames as stored.
        workers: Processes that score clips side by side.
        threads: CPU threads of each process beside this one; None leaves torch's choice.
        second_env: The virtual environment with VBench's own pins, if there is one.
        env_option: What is put behind the commands that are told, so that they fill these folders.
    """

    cache_dir: Path
    work_dir: Path
    device: str = "cpu"
    flow_side: int | None = None
    workers: int = 1
    threads: int | None = None
    second_env: Path | None = None
    env_option: str = ""


@dataclass
class Outcome:
    """What became of clips and dimensions: values and errors by (clip, dimension), `whole` by dimension."""

    values: dict[tuple[str, str], float] = field(default_factory=dict)
    errors: dict[tuple[str, str], str] = field(default_factory=dict)
    whole: dict[str, str] = field(default_factory=dict)


def run_jobs(jobs: Sequence[ScoringJob], ready: Mapping[str, Ready], scoring: Scoring) -> Outcome:
    """Score clips, or take what is kept; every new score is kept as soon as it is there.

    Args:
        jobs: A clip each, with dimensions out of `ready`.
        ready: Every dimension that occurs, and where it runs.
        scoring: Dimensions, weights and device of the scoring.
    """
    store, outcome = ScoreStore(scoring.work_dir.resolve() / "clips"), Outcome()
    keys = {name: score_key(name, scoring) for name in ready}
    tables = WholeTables(scoring.work_dir.resolve() / "tables")
    whole = tables.path([(job.clip, job.dimensions) for job in jobs], keys)
    outcome.values = tables.read(whole)
    if outcome.values:
        return outcome
    todo = []
    for job in jobs:
        kept = store.read(job.clip)
        found = {name: kept[name, keys[name]] for name in job.dimensions if (name, keys[name]) in kept}
        outcome.values.update({(job.clip, name): value for name, value in found.items()})
        todo.append(replace(job, dimensions=tuple(name for name in job.dimensions if name not in found)))
    total, outside = sum(len(job.dimensions) for job in todo), live_folder() is None
    bar = Progress[None](total=total, desc="VBench", unit="score", hidden=outside)  # workers' lines go where it would
    with bar:
        for python in dict.fromkeys(state.python for state in ready.values()):
            here = [replace(job, dimensions=_run_by(python, job, ready)) for job in todo]
            for result in _results(python, [job for job in here if job.dimensions], scoring):
                _keep(result, keys, store, outcome)
                bar.update()
                require_time(f"{len(outcome.values)} VBench scores")
    if not outcome.errors and not outcome.whole:
        tables.write(whole, outcome.values)
    return outcome


def score_key(dimension: str, scoring: Scoring) -> str:
    """What determines a dimension's score of a clip, beside the clip and its prompt."""
    weights = [scoring.cache_dir / weight.path for weight in dimension_of(dimension).weights]
    side = scoring.flow_side if dimension in FLOW_DIMENSIONS else None
    return content_key(dimension, version(), ENGINE_VERSION, weights_fingerprint(weights), side)


def _run_by(python: Path | None, job: ScoringJob, ready: Mapping[str, Ready]) -> tuple[str, ...]:
    return tuple(name for name in job.dimensions if ready[name].python == python)


def _keep(result: Result, keys: Mapping[str, str], store: ScoreStore, outcome: Outcome) -> None:
    if result.whole:
        outcome.whole[result.dimension] = result.error
    elif result.error:
        outcome.errors[result.clip, result.dimension] = result.error
    else:
        value = math.nan if result.value is None else result.value
        outcome.values[result.clip, result.dimension] = value
        store.add(result.clip, result.dimension, keys[result.dimension], value, result.seconds)


def _results(python: Path | None, jobs: Sequence[ScoringJob], scoring: Scoring) -> Iterator[Result]:
    """Scores of jobs that one interpreter runs: here, or in processes."""
    if not jobs:
        return
    workers = min(scoring.workers, len(jobs))
    settings = Settings(
        str(scoring.cache_dir.resolve()), str(scoring.work_dir.resolve()), scoring.device, scoring.flow_side
    )
    if python is None and workers == 1:
        try:
            from vibe_pipeline.vbench.engine import score_jobs  # not at the top: it needs VBench's packages
        except ImportError as error:  # installed, but for example without a library of the system
            yield from not_started(jobs, error)
            return
        yield from score_jobs(settings, jobs)
        return
    shares = [jobs[i::workers] for i in range(workers)]
    yield from _side_by_side(python or Path(sys.executable), settings, shares, scoring.threads)


def _side_by_side(
    python: Path, settings: Settings, shares: Sequence[Sequence[ScoringJob]], threads: int | None
) -> Iterator[Result]:
    """Results of several processes, as they come."""
    results: queue.SimpleQueue[Result | None] = queue.SimpleQueue()

    def work(number: int) -> None:
        """Score one share; what a process that fails has not scored gets its error, and None says it is done."""
        missing = {(job.clip, name) for job in shares[number] for name in job.dimensions}
        try:
            own = replace(settings, device=_device(settings.device, number))
            for result in score_elsewhere(python, own, shares[number], threads):
                missing.discard((result.clip, result.dimension))
                results.put(result)
                if out_of_time():
                    missing.clear()
                    break
        except (WorkerError, OSError) as error:
            for clip, name in sorted(missing):
                results.put(Result(clip, name, None, str(error)))
        finally:
            results.put(None)

    with ThreadPoolExecutor(len(shares)) as pool:
        futures = [pool.submit(work, number) for number in range(len(shares))]
        for _ in shares:
            yield from iter(results.get, None)
        for future in futures:
            future.result()


def _device(device: str, number: int) -> str:
    """`cuda` without a number stands for every GPU in turn."""
    if device != "cuda":
        return device
    import torch

    return f"cuda:{number % max(1, torch.cuda.device_count())}"
