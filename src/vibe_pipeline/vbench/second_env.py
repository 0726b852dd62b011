"""The second environment: VBench with its own old pins, for the dimensions whose code needs them."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from vibe_pipeline.io.files import write_atomic
from vibe_pipeline.io.keys import content_key

REQUIREMENTS = ("torch.txt", "vbench-legacy.txt")
STAMP = ".installed"  # written last: what it was made from
NEWEST_PYTHON = (3, 11)  # the pins' compiled packages go no further


class InstallError(OSError):
    """The environment could not be made."""


def make_second_env(
    folder: Path, requirements: Path, tell: Callable[[str], None], python: str = sys.executable
) -> Path:
    """Make a virtual environment with VBench's own pins, or leave it if it is as wanted.

    Args:
        folder: Where the environment is made.
        requirements: The folder of requirements files.
        tell: Gets a line per step.
        python: The interpreter to make it of, 3.11 at most.

    Returns:
        Its interpreter.

    Raises:
        InstallError: A step failed, or the interpreter is too new; run again, it goes on with what is there.
    """
    files = [requirements / name for name in REQUIREMENTS]
    wanted = content_key(*[file.read_text() for file in files])
    stamp, interpreter = folder / STAMP, folder / "bin" / "python"
    if stamp.is_file() and stamp.read_text() == wanted:
        tell(f"{folder} is there")
        return interpreter
    _check_version(python)
    stamp.unlink(missing_ok=True)
    tell(f"{folder}: a new environment, several GB and minutes")
    _run([python, "-m", "venv", str(folder)])
    for last in range(1, len(files) + 1):  # torch first and alone, so that its pin takes the build that fits
        named = [option for file in files[:last] for option in ("-r", str(file))]
        _run([str(interpreter), "-m", "pip", "install", "--disable-pip-version-check", "--quiet", *named])
    write_atomic(stamp, lambda p: p.write_text(wanted))
    tell(f"{folder}: ready")
    return interpreter


def _check_version(python: str) -> None:
    code = "import sys; print(*sys.version_info[:2])"
    found = tuple(int(part) for part in _run([python, "-c", code]).split())
    if found > NEWEST_PYTHON:
        version = ".".join(map(str, found))
        raise InstallError(
            f"{python} is Python {version}, and the packages that VBench's transformers 4.33.2 needs are not built for "
            "more than 3.11; run this command from an environment of Python 3.11"
        )


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = " / ".join(done.stderr.strip().splitlines()[-3:])
        raise InstallError(f"`{' '.join(command)}` failed: {last}; once that is mended, run the same command again")
    return done.stdout
