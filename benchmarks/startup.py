"""How long commands take to start, in CPU seconds and as ratios to `kedro --version`.

    python benchmarks/startup.py [--repeat 3]

Two baselines: `kedro --version` in a folder that is not a project, where Kedro loads nothing of ours, and in this
project, where it loads its settings, hooks and commands. Each command is run once beforehand, so that what plan and
doctor keep is there (that first time is shown too); then the best of several, since other work on the machine only
adds.
"""

import argparse
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
VERSION = ("--version",)


@dataclass(frozen=True)
class Goal:
    """At most `factor` times the project's `kedro --version` and `seconds` of CPU more.

    Attributes:
        arguments: Of `kedro`.
    """

    arguments: tuple[str, ...]
    factor: float
    seconds: float = 0.0

    def limit(self, baseline: float) -> float:
        """CPU seconds."""
        return self.factor * baseline + self.seconds


GOALS = (
    Goal(("vibe", "--help"), 1.3),
    Goal(("vibe", "plan"), 2, 1),
    Goal(("vibe", "plan", "--env=wan22_ti2v_5b"), 2, 1),
    Goal(("vibe", "doctor"), 2, 1),
)


def processor_seconds(arguments: Sequence[str], folder: Path) -> float:
    """Of one `kedro` command and what it starts, user and system."""
    kedro = shutil.which("kedro")
    if kedro is None:
        raise SystemExit("kedro is not on the path: activate the environment, or use .venv/bin")
    process = subprocess.Popen([kedro, *arguments], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, _, used = os.wait4(process.pid, 0)
    return used.ru_utime + used.ru_stime


def best(arguments: Sequence[str], folder: Path, repeat: int) -> float:
    """The least of several."""
    return min(processor_seconds(arguments, folder) for _ in range(repeat))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    repeat = parser.parse_args().repeat
    with tempfile.TemporaryDirectory() as elsewhere:
        processor_seconds(VERSION, Path(elsewhere))
        outside = best(VERSION, Path(elsewhere), repeat)
    processor_seconds(VERSION, ROOT)
    inside = best(VERSION, ROOT, repeat)
    print(f"kedro --version: {outside:.2f} s outside of a project, {inside:.2f} s in this one\n")
    print(f"{'command':38}{'first s':>9}{'best s':>9}{'x inside':>10}{'x outside':>11}{'goal s':>9}")
    for goal in GOALS:
        first = processor_seconds(goal.arguments, ROOT)
        found, limit = best(goal.arguments, ROOT, repeat), goal.limit(inside)
        said = "met" if found <= limit else "MISSED"
        name = f"kedro {' '.join(goal.arguments)}"
        print(f"{name:38}{first:9.2f}{found:9.2f}{found / inside:10.2f}{found / outside:11.2f}{limit:9.2f}  {said}")


if __name__ == "__main__":
    main()
