"""The files of `conf` as tests read and change them."""

import re
from pathlib import Path
from typing import Any

import yaml

from vibe_pipeline.experiment.folders import Folders
from vibe_pipeline.experiment.loader import LayeredLoader
from vibe_pipeline.settings import CONFIG_LOADER_ARGS

ROOT = Path(__file__).parents[1]
FILES = ("parameters.yml", "experiment.yml")
"""Settings, and the tables."""


def read_conf(folder: Path) -> dict[str, Any]:
    """What the two files of an environment say, as one mapping; folders are those of its globals."""
    params: dict[str, Any] = {}
    folders = loader_of_conf(folder.parent, folder.name)["globals"]["folders"]
    for name in FILES:
        text = (folder / name).read_text() if (folder / name).is_file() else "{}"
        params |= yaml.safe_load(re.sub(r"\$\{globals:folders\.(\w+)\}", lambda found: folders[found[1]], text))
    return params


def write_conf(folder: Path, params: dict[str, Any]) -> None:
    """Let an environment say this and nothing else, in one file: where a group or table stands does not count."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "experiment.yml").unlink(missing_ok=True)
    (folder / "parameters.yml").write_text(yaml.safe_dump(params, sort_keys=False))


def folders_below(folder: Path) -> Folders:
    """The shipped folders, inside another."""
    return Folders(**loader_of_conf(ROOT / "conf", "base")["globals"]["folders"]).below(folder)


def loader_of_conf(conf: Path | str, env: str | None = None, **changes: Any) -> LayeredLoader:
    """The loader with the project's own settings."""
    return LayeredLoader(str(conf), env, **CONFIG_LOADER_ARGS | changes)
