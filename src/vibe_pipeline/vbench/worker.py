"""Scoring in a process of its own: JSON in, lines of JSON out; in this environment or in the second one.

The other environment has VBench's old pins and not this package's, so the package is lent to it as a single link
and what runs there imports nothing but VBench's packages.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from vibe_pipeline.vbench.jobs import Result, ScoringJob, Settings


class WorkerError(RuntimeError):
    """A scoring process ended before it was done."""


def score_elsewhere(
    python: Path, settings: Settings, jobs: Sequence[ScoringJob], threads: int | None
) -> Iterator[Result]:
    """Score jobs in a process of another interpreter, each result as soon as it is there.

    Args:
        python: The interpreter; this one's own for one more worker.
        settings: For the engine.
        jobs: The clips to score, each with its dimensions.
        threads: CPU threads it may use; None leaves torch's choice.

    Raises:
        WorkerError: It ended early; the message has the last lines it said.
    """
    request = json.dumps({"settings": asdict(settings), "jobs": [asdict(job) for job in jobs]})
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as said:
        (Path(folder) / "vibe_pipeline").symlink_to(Path(__file__).parents[1])
        environment = os.environ | {"PYTHONPATH": folder, "PYTHONNOUSERSITE": "1"}
        if threads is not None:
            environment["OMP_NUM_THREADS"] = str(threads)
        command = [str(python), "-m", "vibe_pipeline.vbench.worker"]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True, env=environment
        ) as process:
            assert process.stdin is not None and process.stdout is not None  # pipes
            try:
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write(request)
                    process.stdin.close()
                for line in process.stdout:
                    yield Result(**json.loads(line))
            except BaseException:  # also when nobody wants the rest
                process.terminate()
                raise
        if process.returncode:
            said.seek(0)
            last = " / ".join(said.read().strip().splitlines()[-3:])
            raise WorkerError(f"{python} ended with status {process.returncode} while scoring: {last}")


def main() -> None:
    """The process itself: reads its request from standard input."""
    from vibe_pipeline.vbench.engine import score_jobs  # not at the top: it needs VBench's packages

    request = json.load(sys.stdin)
    jobs = [ScoringJob(**job | {"dimensions": tuple(job["dimensions"])}) for job in request["jobs"]]
    # Whatever a package prints goes to the log of the caller, not between the results.
    with contextlib.redirect_stdout(sys.stderr), os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)
        for result in score_jobs(Settings(**request["settings"]), jobs):
            out.write(json.dumps(asdict(result)) + "\n")
            out.flush()


if __name__ == "__main__":
    main()
