"""How the parameters of a project are put together; Kedro, its registry, Kedro-Viz and `kedro vibe` all read this way.

Four layers, each over the one before:

1. `conf/base`.
2. One environment: `--env`, else the variable `KEDRO_ENV`, else `local`. A group or table that it has replaces that
   of base as a whole, so that an experiment of its own inherits nothing from the miniature. With `extends: OTHER` in
   its parameters.yml it is laid on that environment instead: its groups field by field; of a table it has, its rows
   alone, each on the row of the same name.
3. `conf/local` is that environment when none is chosen, and is the exception: it holds what one person changes, so its
   groups are laid on base's field by field. Its tables replace base's as a whole, as those of any environment do.
4. `--params` and `--config`, field by field, in groups and in the rows of tables.

Kedro's own loader lays `--params` on the environment's file alone, and what comes of it replaces the whole group of
base: one field given on the command line would drop all others.

Kedro imports this for every command, `--help` too, so the groups of parameters (pydantic) come in where they are read.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from kedro.config import MissingConfigException, OmegaConfigLoader
from kedro.framework.project import settings

from vibe_pipeline.experiment.errors import ParameterError
from vibe_pipeline.io.yaml_files import read_mapping

WRITTEN = "written"
"""The files of parameters without what the command line gives; Kedro adds that to `parameters` alone."""

PARAMETERS, EXTENDS = "parameters.yml", "extends"
"""Where an environment says which other it is laid on, and the word for it."""

OWN_FILES = ("claims", "published")
"""Kinds of which a chosen environment's file replaces base's whole: half a list of claims has no meaning."""


class LayeredLoader(OmegaConfigLoader):
    """Kedro's loader of configuration, with parameters laid field by field."""

    def __init__(
        self,
        conf_source: str | Path,
        env: str | None = None,
        runtime_params: dict[str, Any] | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(conf_source, env or os.environ.get("KEDRO_ENV"), runtime_params, **arguments)
        self.config_patterns[WRITTEN] = self.config_patterns["parameters"]

    def __getitem__(self, key: str) -> dict[str, Any]:
        """The configuration of a kind: parameters and globals in layers, claims and published figures of one file."""
        if key in OWN_FILES and key not in self.data:
            file = self.file_of(key)
            return read_mapping(file) if file else {}
        if key == "globals" and key not in self.data:
            return self._laid_globals()
        if key != "parameters" or key in self.data:
            return super().__getitem__(key)
        chosen = self.env or self.default_run_env
        self._require_folder(chosen)
        rows = self._layers(chosen, WRITTEN)
        _require_rows(self.runtime_params or {}, rows)
        return self._layers(chosen, "parameters")

    def file_of(self, key: str) -> Path | None:
        """The one file of a kind that counts: the chosen environment's, else base's; None where there is none."""
        return next(iter(self.files_of(key)), None)

    def files_of(self, key: str) -> list[Path]:
        """The files of a kind, the chosen environment's before those it extends, and base's last."""
        envs = dict.fromkeys((*self._chain(self.env or self.default_run_env), self.base_env))
        folders = [Path(self.conf_source) / env for env in envs]
        return [file for folder in folders for name in self.config_patterns[key] for file in folder.glob(name)]

    def _laid_globals(self) -> dict[str, Any]:
        """The chosen environment's globals on base's, name by name.

        Kedro would resolve base's references before it merges, and replace whole mappings: an environment that moves
        the folder of all data would move none of those below it.

        Raises:
            ParameterError: A file is not YAML, or refers to nothing; names the file.
        """
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException
        from yaml import YAMLError

        from vibe_pipeline.io.errors import one_line

        laid: Any = OmegaConf.create()
        file = Path(self.conf_source)
        try:
            for file in reversed(self.files_of("globals")):
                laid = OmegaConf.merge(laid, OmegaConf.create(read_mapping(file)))
            return cast("dict[str, Any]", OmegaConf.to_container(laid, resolve=True))
        except (YAMLError, OmegaConfBaseException, ValueError) as error:
            said = one_line(error, 240)
            raise ParameterError(said if str(file) in said else f"{file} cannot be read: {said}") from None

    def _layers(self, chosen: str, key: str) -> dict[str, Any]:
        """Base and the chosen environment; Kedro has laid the command line's values on each, if `key` has them."""
        from vibe_pipeline.experiment.load import TABLES

        base = self._read(self.base_env, key)
        if chosen == self.base_env:
            return base
        if chosen == self.default_run_env:
            return base | {k: v if k in TABLES else _laid(base.get(k), v) for k, v in self._own(chosen, key).items()}
        laid: dict[str, Any] = {}
        for env in reversed(self._chain(chosen)):
            laid |= {k: (_rows if k in TABLES else _laid)(laid.get(k), v) for k, v in self._own(env, key).items()}
        return base | laid

    def _own(self, env: str, key: str) -> dict[str, Any]:
        """What one environment says, and the command line on it; nothing of what only the command line says."""
        own, written = self._read(env, key), self._read(env, WRITTEN)
        # Names with an underscore in front are YAML anchors, which WRITTEN leaves out.
        kept = {name: value for name, value in own.items() if name in written or str(name).startswith("_")}
        return {name: value for name, value in kept.items() if name != EXTENDS or env == self.default_run_env}

    def _chain(self, chosen: str) -> tuple[str, ...]:
        """An environment, the one that it extends, the one that this extends, and so on.

        Raises:
            ParameterError: One of them is not there, or extends itself in the end; names the file.
        """
        chain = [chosen]
        while (parent := self._extended(chain[-1])) is not None:
            file = Path(self.conf_source) / chain[-1] / PARAMETERS
            if not isinstance(parent, str) or parent in (self.base_env, self.default_run_env):
                raise ParameterError(f"{file}: {EXTENDS} names another environment, not {parent!r}")
            if parent in chain:
                raise ParameterError(f"{file}: {EXTENDS} {parent!r} goes round: {' -> '.join([*chain, parent])}")
            try:
                self._require_folder(parent)
            except MissingEnvironmentError as error:
                raise MissingEnvironmentError(f"{chain[-1]} {EXTENDS} {parent!r}: {error}") from None
            chain.append(parent)
        return tuple(chain)

    def _extended(self, env: str) -> object:
        """What the environment's parameters.yml names under `extends`; None: nothing."""
        file = Path(self.conf_source) / env / PARAMETERS
        if env in (self.base_env, self.default_run_env) or not file.is_file():
            return None
        try:
            return read_mapping(file).get(EXTENDS)
        except ValueError:
            return None  # the file is read again for its parameters, and what is wrong with it is said there

    def _read(self, env: str, key: str) -> dict[str, Any]:
        """What the files of one environment alone say."""
        kept = self.env, self.base_env
        self.env = self.base_env = env
        try:
            return super().__getitem__(key)
        finally:
            self.env, self.base_env = kept

    def _require_folder(self, env: str) -> None:
        source = Path(self.conf_source)
        if not source.is_dir() or (source / env).is_dir():
            return
        from vibe_pipeline.io.errors import did_you_mean

        known = sorted(p.name for p in source.iterdir() if p.is_dir())
        way = "make it, it may be empty" if env == self.default_run_env else f"environments: {', '.join(known)}"
        # What is meant stands before the list, which is long and may be cut.
        raise MissingEnvironmentError(f"{source / env} does not exist{did_you_mean(env, known) or ';'} {way}")


def loader_of(
    env: str | None = None, runtime_params: dict[str, Any] | None = None, conf_source: str | None = None
) -> LayeredLoader:
    """The loader of the project in the current folder, made as a run's session makes it."""
    source = conf_source or str(Path.cwd() / settings.CONF_SOURCE)
    return settings.CONFIG_LOADER_CLASS(source, env, runtime_params, **settings.CONFIG_LOADER_ARGS)


def env_option(env: str | None) -> str:
    """The environment as an option, to be put behind a command that people are told; empty where none was chosen."""
    return f" --env={env}" if env else ""


class MissingEnvironmentError(ParameterError, MissingConfigException):
    """There is no folder for the chosen environment."""


def _laid(below: Any, above: Any) -> Any:
    """`above` on `below`: mappings field by field, all else as it is."""
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)):
        return above
    return {**below, **{name: _laid(below.get(name), value) for name, value in above.items()}}


def _rows(below: Any, above: Any) -> Any:
    """The rows of `above` alone, each laid on the row of the same name field by field, a field as a whole."""
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)):
        return above
    return {name: _row(below.get(name), row) for name, row in above.items()}


def _row(below: Any, above: Any) -> Any:
    if not isinstance(below, Mapping):
        return above
    return {**below, **above} if isinstance(above, Mapping) else below if above is None else above


def _require_rows(given: Mapping[str, Any], written: Mapping[str, Any]) -> None:
    """Refuse a row that only the command line names: a misspelt one would be trained beside the one that was meant."""
    from vibe_pipeline.experiment.load import TABLES
    from vibe_pipeline.io.errors import did_you_mean, one_line

    for table in TABLES:
        rows, there = given.get(table), written.get(table)
        if not isinstance(rows, Mapping) or not isinstance(there, Mapping):
            continue
        for name in rows:
            if name not in there:
                raise ParameterError(
                    f"{table} has no row {one_line(name, 60)!r}; --params and --config change rows that are written "
                    f"({one_line(', '.join(there), 200)}), new ones go into an environment{did_you_mean(name, there)}"
                )
