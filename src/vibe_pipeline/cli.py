"""`kedro vibe …`: what to know before a run, and what to do beside one. Commands only parse; the rooms do the work."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from kedro.config import OmegaConfigLoader
from kedro.framework.project import settings
from kedro.utils import find_kedro_project


@click.group(name="vibe_pipeline")
def cli() -> None:
    """Commands of this project."""


@cli.group()
def vibe() -> None:
    """Plan, check and exchange: everything beside `kedro run`."""
    # Kedro finds a project from below it, but paths in parameters are relative to its folder.
    os.chdir(find_kedro_project(Path.cwd()) or Path.cwd())


def env_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """The `--env` of Kedro's own commands."""
    return click.option("--env", "-e", default="base", show_default=True, help="Configuration environment.")(command)


def parameters_of(env: str) -> dict[str, Any]:
    """The parameters of an environment, as `kedro run --env` reads them.

    Raises:
        click.UsageError: There is no such environment.
    """
    source = Path.cwd() / settings.CONF_SOURCE
    if not (source / env).is_dir():
        known = ", ".join(sorted(p.name for p in source.iterdir() if p.is_dir())) if source.is_dir() else "none"
        raise click.UsageError(f"{source / env} does not exist; environments: {known}")
    return OmegaConfigLoader(str(source), env=env, base_env="base", default_run_env="local")["parameters"]
