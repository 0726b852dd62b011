"""The files of `conf` as tests read and change them."""

from pathlib import Path
from typing import Any

import yaml

from vibe_pipeline.experiment.loader import LayeredLoader
from vibe_pipeline.settings import CONFIG_LOADER_ARGS

FILES = ("parameters.yml", "experiment.yml")
"""Settings, and the tables."""


def read_conf(folder: Path) -> dict[str, Any]:
    """What the two files of an environment say, as one mapping."""
    params: dict[str, Any] = {}
    for name in FILES:
        params |= yaml.safe_load((folder / name).read_text()) if (folder / name).is_file() else {}
    return params


def write_conf(folder: Path, params: dict[str, Any]) -> None:
    """Let an environment say this and nothing else, in one file: where a group or table stands does not count."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "experiment.yml").unlink(missing_ok=True)
    (folder / "parameters.yml").write_text(yaml.safe_dump(params, sort_keys=False))


def loader_of_conf(conf: Path | str, env: str | None = None, **changes: Any) -> LayeredLoader:
    """The loader with the project's own settings."""
    return LayeredLoader(str(conf), env, **CONFIG_LOADER_ARGS | changes)
