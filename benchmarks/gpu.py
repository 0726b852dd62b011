"""Proves the GPU path in one command: correctness first, then speed and memory against goals and plan, then a tiny run.

Nothing is downloaded: random weights in the true architectures. A part begins nothing after eight minutes, and what is
in the file of results is not done again, so that a card that is lent for minutes is enough, in several calls.
Written for torch 2.11 and later. Exit code 1 if any line fails.

    python benchmarks/gpu.py                                  # all parts on CUDA
    python benchmarks/gpu.py --parts correctness step         # some of them
    python benchmarks/gpu.py --match flash "stage-2 step"     # those whose line holds one of these texts
    python benchmarks/gpu.py --device cpu --small             # what a CPU can show, in seconds
"""

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import vibe_pipeline  # noqa: F401  before diffusers: it makes torchvision importable

PARTS = ("correctness", "step", "speed", "vae", "run")
PART_SECONDS = 480.0


@dataclass(frozen=True)
class Setting:
    """Where checks run, and whether at toy sizes."""

    device: str
    small: bool

    @property
    def cuda(self) -> bool:
        """Whether there is a GPU at work."""
        return self.device == "cuda"


@dataclass(frozen=True)
class Check:
    """One line of the table.

    Attributes:
        part: One of `PARTS`.
        name: What is checked.
        run: Gives the figure.
        goal: The most that the figure may be; None: it is only shown.
        unit: Of the figure.
    """

    part: str
    name: str
    run: Callable[[Setting], float]
    goal: float | None = None
    unit: str = ""


@dataclass(frozen=True)
class Line:
    """What a check found."""

    part: str
    name: str
    figure: float | None
    unit: str
    goal: float | None
    passed: bool | None
    seconds: float
    error: str = ""


def checks_of(setting: Setting) -> list[Check]:
    """Every check of a setting, in the order in which they are worth most."""
    import gpu_correct
    import gpu_speed

    return [*gpu_correct.checks(setting), *gpu_speed.checks(setting), Check("run", "a tiny run ends", whole_run)]


def whole_run(setting: Setting) -> float:
    """Seconds of `kedro run` on a tiny random checkpoint: caching, both stages, arms, scores, page."""
    from ray_run import build_model, copy_project, run

    with tempfile.TemporaryDirectory(prefix="gpu_run_") as folder:
        project = copy_project(Path(folder) / "project", build_model(Path(folder) / "model"))
        seconds = run(project, f"--params=model.device={setting.device}")
        if not (project / "data/08_reporting/ablation_table.csv").is_file():
            raise RuntimeError("the run ended without data/08_reporting/ablation_table.csv")
        return seconds


def settle(check: Check, setting: Setting) -> Line:
    """Run a check; an error is its result, as the next ones may still tell something."""
    begun = time.monotonic()
    figure, error = None, ""
    try:
        figure = float(check.run(setting))
    except Exception as found:
        error = f"{type(found).__name__}: {str(found).splitlines()[0] if str(found) else ''}"[:160]
    passed = False if error else None if check.goal is None else figure is not None and figure <= check.goal
    if setting.cuda:
        torch.cuda.empty_cache()
    seconds = time.monotonic() - begun
    return Line(check.part, check.name, figure, check.unit, check.goal, passed, seconds, error)


def row(line: Line) -> str:
    """A line of the table."""
    verdict = {True: "pass", False: "FAIL", None: "-"}[line.passed]
    figure = "-" if line.figure is None else f"{line.figure:.4g} {line.unit}".rstrip()
    goal = "-" if line.goal is None else f"<= {line.goal:g}"
    return f"{line.part:12}{line.name:64}{figure:>16}{goal:>12}  {verdict:5}{line.seconds:6.1f} s {line.error}".rstrip()


def where(setting: Setting) -> dict[str, str]:
    """The card, or the CPU, and torch; figures of another place do not count."""
    card = torch.cuda.get_device_name() if setting.cuda else f"cpu {platform.machine()}"
    return {"device": card, "torch": torch.__version__, "size": "small" if setting.small else "true"}


def kept(path: Path, place: dict[str, str]) -> list[Line]:
    """Lines that were found in the same place before, but for those that failed by an error."""
    if not path.is_file():
        return []
    content = json.loads(path.read_text(encoding="utf-8"))
    found = [Line(**line) for line in content["lines"]] if content["where"] == place else []
    return [line for line in found if not line.error]


def run_all(setting: Setting, parts: Iterable[str], path: Path, match: Sequence[str] = ("",)) -> list[Line]:
    """Every check of the parts that matches and is not done yet, each written as soon as it is known."""
    place = where(setting)
    lines = kept(path, place)
    done = {(line.part, line.name) for line in lines}
    spent = dict.fromkeys(PARTS, 0.0)
    for check in checks_of(setting):
        asked = check.part in parts and any(text in check.name for text in match)
        if not asked or (check.part, check.name) in done:
            continue
        if spent[check.part] > PART_SECONDS:
            print(f"{check.part:12}{check.name}: left for the next call, {PART_SECONDS:.0f} s are over", flush=True)
            continue
        line = settle(check, setting)
        spent[check.part] += line.seconds
        lines.append(line)
        path.write_text(json.dumps({"where": place, "lines": [*map(asdict, lines)]}, indent=1), encoding="utf-8")
        print(row(line), flush=True)
    return [line for line in lines if line.part in parts]


def main(arguments: Sequence[str] | None = None) -> int:
    """Check what the command line asks for; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="toy sizes")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--match", nargs="+", default=[""], help="only lines that hold one of these texts")
    parser.add_argument("--json", type=Path, default=Path("gpu.json"), help="results, kept from one call to the next")
    given = parser.parse_args(arguments)
    setting = Setting(given.device, given.small)
    if setting.cuda and not torch.cuda.is_available():
        parser.error("torch sees no GPU: use --device cpu --small for what a CPU can show")
    print(", ".join(f"{name} {value}" for name, value in where(setting).items()), flush=True)
    lines = run_all(setting, given.parts, given.json, given.match)
    failed = [line for line in lines if line.passed is False]
    print(f"{len(lines)} lines, {sum(line.passed is True for line in lines)} pass, {len(failed)} fail; {given.json}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.modules.setdefault("gpu", sys.modules["__main__"])  # the parts import Check from here
    sys.exit(main())
