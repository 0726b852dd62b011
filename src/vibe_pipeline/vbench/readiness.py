"""Whether a VBench dimension can be scored, decided from files on disk alone.

VBench fetches what it lacks in the middle of an evaluation, and on some dimensions while being imported.
So nothing of it is imported here: a dimension is declared ready only when every file is where it will look.
"""

import importlib.metadata
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

from vibe_pipeline.io.named import require_no_file
from vibe_pipeline.vbench.dimensions import COMMON_PACKAGES, HUB_FOLDER, Dimension, dimension_of
from vibe_pipeline.vbench.prompts import INSTALL
from vibe_pipeline.vbench.second_env import STAMP

FETCH = "kedro vibe fetch-weights"
"""What brings the weights of every dimension that an environment asks for."""
SECOND = "kedro vibe vbench-env"
"""What makes the environment with VBench's own versions."""


def fetch_command(dimension: str) -> str:
    """What brings the weights of one dimension."""
    return f"{FETCH} --dimensions {dimension}"


@dataclass(frozen=True)
class Ready:
    """The dimension can be scored: here, or by another environment's `python`."""

    dimension: str
    python: Path | None = None


@dataclass(frozen=True)
class Skipped:
    """The dimension cannot be scored; `reason` says why, `fix` names the commands and settings that change it."""

    dimension: str
    reason: str
    fix: str = ""


def readiness(
    dimension: str, cache_dir: Path, labelled: bool = False, second_env: Path | None = None, env_option: str = ""
) -> Ready | Skipped:
    """Whether a dimension can be scored, from what is on disk; takes milliseconds.

    Args:
        dimension: One of the 16.
        cache_dir: VBench's folder of weights.
        labelled: The clips are of VBench's own prompts, which come with the labels some dimensions compare with.
        second_env: The virtual environment with VBench's own pins, if there is one.
        env_option: What is put behind the commands that are told, so that they fill these folders.

    Raises:
        ValueError: It is not one of the 16; the message lists them.
    """
    entry = dimension_of(dimension)
    python, packages = None, _package_reasons(entry)
    if packages and second_env is not None and not _unusable(second_env, "folders.vbench_env"):
        python = _second_python(entry, second_env)
    if packages and python is None and entry.versions:
        packages = [*packages, f"make an environment with VBench's own versions: `{SECOND}{env_option}`"]
    fetch = f"{fetch_command(entry.name)}{env_option}"
    prompts, weights = [] if labelled else _prompt_reasons(entry), _weight_reasons(entry, Path(cache_dir), fetch)
    reasons = [*prompts, *([] if python else packages), *weights]
    if not reasons:
        return Ready(entry.name, python)
    fixes = [
        *(["set generation.prompts to vbench_subset or vbench_standard"] if prompts else []),
        *([] if python else _package_fixes(entry, env_option)),
        *([fetch] if weights else []),
    ]
    return Skipped(entry.name, "skipped, because " + "; and ".join(reasons), "; then ".join(fixes))


def _prompt_reasons(entry: Dimension) -> list[str]:
    if not entry.standard_prompts:
        return []
    return ["it compares with the labels of VBench's own prompts, which clips of other prompts do not have"]


def _package_reasons(entry: Dimension) -> list[str]:
    names = (*COMMON_PACKAGES, *entry.packages)
    reasons = [f"the package {name} is not installed" for name in names if importlib.util.find_spec(name) is None]
    for requirement in map(Requirement, entry.versions):
        try:
            found = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            continue  # already reported as not installed
        if not requirement.specifier.contains(found, prereleases=True):
            reasons.append(f"VBench's code for it needs {requirement}, and {requirement.name} {found} is installed")
    return reasons


def _package_fixes(entry: Dimension, env_option: str) -> list[str]:
    """Commands that bring the packages, in this environment or in the second one."""
    if entry.versions:
        return [f"{SECOND}{env_option}"]
    absent = [name for name in (*COMMON_PACKAGES, *entry.packages) if importlib.util.find_spec(name) is None]
    others = [name for name in absent if name in entry.packages]
    fixes = [INSTALL] if len(others) < len(absent) else []
    return fixes + [f"build {name} from its own repository: it is on no package index" for name in others]


def _second_python(entry: Dimension, environment: Path) -> Path | None:
    """The second environment's interpreter, if it has the packages that the dimension wants."""
    python = (environment / "bin" / "python").absolute()
    folders = list(environment.glob("lib/python*/site-packages"))
    has_all = all(any((f / name).is_dir() for f in folders) for name in ("vbench", *entry.packages))
    return python if python.is_file() and (environment / STAMP).is_file() and has_all else None


def _unusable(folder: Path, field: str) -> str:
    """Why a folder cannot be made or read, or an empty string."""
    try:
        require_no_file(folder, field)
    except (ValueError, OSError) as error:
        return str(error)
    return ""


def _weight_reasons(entry: Dimension, cache_dir: Path, fetch: str) -> list[str]:
    if entry.weights and (said := _unusable(cache_dir, "folders.vbench_weights")):
        return [said]
    command, reasons = f"get it with `{fetch}`", []
    for weight in entry.weights:
        file = cache_dir / weight.path
        if not file.is_file():
            reasons.append(f"{weight.path} is not at {cache_dir}; {command}, which takes it from {weight.source}")
        elif file.stat().st_size == 0:
            reasons.append(f"{file} is empty; delete it and {command}")
    if entry.hub_model:
        folders = [cache_dir / HUB_FOLDER, _hub_cache()]
        if not any((folder / f"models--{entry.hub_model}").is_dir() for folder in folders):
            reasons.append(f"the model {entry.hub_model} is not at {folders[0]} or {folders[1]}; {command}")
    return reasons


def _hub_cache() -> Path:
    """Where huggingface_hub looks, without importing it."""
    home = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub")
