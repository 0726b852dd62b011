"""What every command shares: the options of `kedro run` that decide parameters, and errors as one line."""

import copy
import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
from kedro.framework.cli.project import run as kedro_run
from kedro.framework.cli.utils import KedroCliError
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError


@dataclass(frozen=True)
class Chosen:
    """Which parameters: what `kedro run` is given by options of the same names."""

    env: str | None = None
    params: dict[str, Any] | None = None
    conf_source: str | None = None

    @property
    def shown(self) -> str:
        """The environment as an option, to be put behind a command; empty where none was chosen."""
        from vibe_pipeline.experiment.loader import env_option

        return env_option(self.env)

    def changed(self, given: dict[str, Any]) -> "Chosen":
        """The same with more parameters given on the command line, laid over those that are."""
        laid = OmegaConf.merge(OmegaConf.create(self.params or {}), OmegaConf.create(given))
        params: Any = OmegaConf.to_container(laid)
        return replace(self, params=params)


def config_read_plainly(option: click.Option) -> click.Option:
    """Kedro's own --config, whose faults become one line."""
    reads = option.callback
    assert reads is not None  # of Kedro's own option

    def read_file(ctx: click.Context, option: click.Parameter, value: Any) -> Any:
        """Kedro reads the section that is named like the command; one file, with `run:`, serves them all."""
        said, ctx.info_name = ctx.info_name, "run"
        try:
            return reads(ctx, option, value)
        except KedroCliError as error:
            raise click.UsageError(f"--config: {value}: {error.message}") from error
        except (KeyError, TypeError, AttributeError, YAMLError, OmegaConfBaseException) as error:
            from vibe_pipeline.io.yaml_files import yaml_fault

            why = "" if isinstance(error, KeyError) else f": {yaml_fault(error)}"
            raise click.UsageError(
                f"--config: {value} has no readable section `run:`{why}; parameters stand below `run: {{params: …}}`"
            ) from error
        finally:
            ctx.info_name = said

    config = copy.copy(option)
    config.callback = read_file
    return config


def parameter_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of `kedro run` that decide parameters, Kedro's own objects; `command` gets them as `chosen`."""
    options = {option.name: option for option in kedro_run.params if isinstance(option, click.Option)}

    @functools.wraps(command)
    def with_chosen(*, env: str, params: dict[str, Any], config: str, conf_source: str, **others: Any) -> Any:
        return command(chosen=Chosen(env, params, conf_source), **others)

    config = config_read_plainly(options["config"])
    taken: Callable[..., Any] = with_chosen
    for option in (options["conf_source"], config, options["params"], options["env"]):
        made: Any = functools.partial(_same, option)
        taken = click.option(cls=made)(taken)
    return taken


def _same(option: click.Option, declarations: Any) -> click.Option:
    return option


def parameters_of(chosen: Chosen) -> dict[str, Any]:
    """The parameters that `kedro run` reads with the same options, sweeps unfolded.

    Raises:
        ValueError: There is no such environment, or its parameters cannot be used; one line that names file or field.
    """
    from vibe_pipeline.experiment.load import settled_parameters
    from vibe_pipeline.experiment.loader import loader_of

    return settled_parameters(loader_of(chosen.env, chosen.params, chosen.conf_source))


def blocks_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """The option that sets `generation.sequential.blocks`, for environments that do not; to stand below the others."""

    @functools.wraps(command)
    def with_blocks(*, chosen: Chosen, blocks: str | None, **others: Any) -> Any:
        if blocks is not None:
            given = {"generation": {"sequential": {"blocks": _numbers(blocks)}}}
            chosen = chosen.changed(given)
        return command(chosen=chosen, **others)

    said = "Prompts at each look, as 16,32,64; instead of generation.sequential.blocks."
    taken: Callable[..., Any] = click.option("--blocks", help=said)(with_blocks)
    return taken


def _numbers(given: str) -> list[int]:
    try:
        return [int(part) for part in given.split(",")]
    except ValueError:
        raise click.UsageError(f"--blocks {given}: whole numbers with commas between them, as 16,32,64") from None


@contextmanager
def said_plainly() -> Iterator[None]:
    """Show an expected error as its message, without a traceback."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        raise click.ClickException(str(error)) from error


class OwnPath(click.Path):
    """A path relative to the folder that the command was given in, although commands work in the project's."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Absolute, unless the command was given in the project's own folder."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        begun = ctx.find_object(Path) if ctx else None
        return path if begun is None or begun == Path.cwd() else begun / path


class AdapterChoice(click.ParamType):
    """An adapter's file or folder, relative to where the command was given, or the name of a trained row."""

    name = "ROW, FILE or FOLDER"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """A name as it is; a file as its path, and a folder as that of the adapter in it."""
        from vibe_pipeline.generation.peer_weights import ADAPTER

        path = OwnPath().convert(value, param, ctx)
        with suppress(OSError):  # a name that no file can have is refused where it is looked for
            if (path / ADAPTER).is_file():
                return str(path / ADAPTER)
        return str(path) if Path(value).suffix else str(value)
